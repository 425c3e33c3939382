package ingest

import (
	"context"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"databus/schemas/event"
)

// follower is the applier of one database version.
type follower struct {
	db   event.DatabaseVersion
	stop context.CancelFunc
	done chan struct{}
}

// runAppliers keeps one applier running for each database version that follows the Databus: those in state STANDBY or
// SERVING. A version that is being built, or caught up, has another writer.
func (s *Service) runAppliers(ctx context.Context) error {
	running := map[string]*follower{}
	for {
		changed := s.databases.Changed()
		want := map[string]event.DatabaseVersion{}
		for _, db := range s.databases.Followed() {
			want[db.Version] = db
		}
		for version, f := range running {
			if _, ok := want[version]; !ok {
				f.stop()
				<-f.done // before the version may come back: it has one writer
				delete(running, version)
				s.leaveGroup(ctx, f.db)
			}
		}
		for version, db := range want {
			if running[version] == nil {
				one, stop := context.WithCancel(ctx)
				f := &follower{db: db, stop: stop, done: make(chan struct{})}
				running[version] = f
				go func() {
					defer close(f.done)
					s.keepApplying(one, db)
				}()
			}
		}
		select {
		case <-ctx.Done():
			for _, f := range running {
				<-f.done
				f.stop()
			}
			return nil
		case <-changed:
		}
	}
}

// keepApplying runs a version's applier and starts it again from the committed offsets when Kafka or the store failed.
func (s *Service) keepApplying(ctx context.Context, db event.DatabaseVersion) {
	name := "applier/" + db.Version
	standing := &standing{check: s.env.Health.Register(name), failing: map[int32]bool{}, reason: "joining group " + db.ApplierGroup}
	defer s.env.Health.Remove(name)
	progress := s.env.Progress(name + "/progress")
	defer s.env.Health.Remove(name + "/progress")
	defer s.metrics.lag.DeleteLabelValues(db.Version)
	sweeping, stop := context.WithCancel(ctx)
	swept := make(chan struct{})
	go func() {
		defer close(swept)
		s.keepSweeping(sweeping, db, standing)
	}()
	defer func() { stop(); <-swept }()
	for ctx.Err() == nil {
		err := s.apply(ctx, db, standing, progress)
		if ctx.Err() != nil {
			return
		}
		s.metrics.retries.WithLabelValues(db.Version).Inc()
		standing.end(err)
		s.env.Log.Warn("applier stopped, it starts again from its committed offsets", "database", db.Version, "after", s.cfg.Applier.Retry, "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(s.cfg.Applier.Retry):
		}
	}
}

// leaveGroup gives the partitions of a version that is not followed any more away. A static member would keep them until
// its session times out, and catch-up waits for a group without members.
func (s *Service) leaveGroup(ctx context.Context, db event.DatabaseVersion) {
	client, err := kgo.NewClient(s.env.KafkaOpts()...)
	if err == nil {
		defer client.Close()
		bounded, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		_, err = kadm.NewClient(client).LeaveGroup(bounded, kadm.LeaveGroup(db.ApplierGroup).InstanceIDs(s.applierInstance(db)).Reason("the database version is not followed any more"))
	}
	if err != nil {
		s.env.Log.Warn("leaving the applier's group failed; its session timeout will do it", "database", db.Version, "error", err)
	}
}

func (s *Service) applierInstance(db event.DatabaseVersion) string {
	return s.env.GroupInstanceID("applier." + db.Version)
}

// standing is an applier's readiness: it has joined its group, and none of its partitions has failed since it was last
// applied. An assignment alone does not make a failed partition good again: it would look ready between two attempts.
type standing struct {
	check interface {
		Set(ready bool, reason string)
	}

	mu      sync.Mutex
	mine    map[int32]bool // nil until the group is joined
	failing map[int32]bool
	reason  string
}

func (s *standing) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
	for p := range s.mine {
		if s.failing[p] {
			s.check.Set(false, s.reason)
			return
		}
	}
	if s.mine == nil {
		s.check.Set(false, s.reason)
		return
	}
	s.check.Set(true, "")
}

// assigned adds partitions.
func (s *standing) assigned(partitions []int32) {
	s.set(func() {
		if s.mine == nil {
			s.mine = map[int32]bool{}
		}
		for _, p := range partitions {
			s.mine[p] = true
		}
	})
}

// owns says whether a partition is this applier's now.
func (s *standing) owns(partition int32) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mine[partition]
}

// revoked removes partitions; what was wrong with them is another's concern.
func (s *standing) revoked(partitions []int32) {
	s.set(func() {
		for _, p := range partitions {
			if s.mine[p] {
				delete(s.mine, p)
				delete(s.failing, p)
			}
		}
	})
}

// applied says that a batch of these partitions is in the store and committed, or that err kept it from being.
func (s *standing) applied(partitions map[int32]bool, err error) {
	s.set(func() {
		for p := range partitions {
			if err == nil {
				delete(s.failing, p)
			} else {
				s.failing[p], s.reason = true, err.Error()
			}
		}
	})
}

// end is that of one life of the applier: it owns nothing, but remembers what failed.
func (s *standing) end(err error) { s.set(func() { s.mine, s.reason = nil, err.Error() }) }
