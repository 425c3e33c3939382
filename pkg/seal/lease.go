package seal

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"databus/schemas/event"
)

// holderChars may be in a holder's name.
const holderChars = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"

var errClosed = errors.New("keyring is closed")

// lease is a keyring's right to use keys: it has known everything on keys.events at some moment less than its length ago.
type lease struct {
	holder string
	length time.Duration
	start  time.Time // monotonic origin of until

	until  atomic.Int64  // nanoseconds since start
	joined chan struct{} // closed once the holder is on keys.events, or has no name
	work   chan struct{} // something to say, see Keyring.maintain
	done   chan struct{} // closed when maintain has ended

	mu     sync.Mutex
	member bool // the holder is on keys.events
}

func (l *lease) init(holder string, length time.Duration) {
	l.holder, l.length, l.start = holder, length, time.Now()
	l.joined, l.work, l.done = make(chan struct{}), make(chan struct{}, 1), make(chan struct{})
	if holder == "" {
		close(l.joined)
	}
}

func (l *lease) wake() {
	select {
	case l.work <- struct{}{}:
	default:
	}
}

func (l *lease) setMember(is bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.member = is
}

func (l *lease) isMember() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.member
}

// rejoin is for a holder that somebody took from keys.events because it had said nothing for too long.
func (l *lease) rejoin() {
	l.setMember(false)
	l.wake()
}

// valid says whether keys may be used now. It asks the clock each time: a process that stood still has a timer that does
// not know of it yet.
func (l *lease) valid() bool { return int64(time.Since(l.start)) < l.until.Load() }

// fresh returns at once while the lease is valid, and gets a new one otherwise; ErrStale where that fails.
func (k *Keyring) fresh(ctx context.Context) error {
	if k.lease.valid() {
		return nil
	}
	return k.confirm(ctx)
}

// confirm gets a new lease: it reads keys.events to its end. A holder must have its name on keys.events before, so that
// whoever revokes a key that is used under this lease knows whom to wait for.
func (k *Keyring) confirm(ctx context.Context) error {
	select {
	case <-k.lease.joined:
	case <-k.lease.done:
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrStale, ctx.Err())
	}
	select {
	case <-k.lease.done:
		return errClosed
	default:
	}
	asked := time.Since(k.lease.start)
	if err := k.follower.CaughtUp(ctx); err != nil {
		return fmt.Errorf("%w: %w", ErrStale, err)
	}
	until := int64(asked + k.lease.length)
	for {
		old := k.lease.until.Load()
		if old >= until || k.lease.until.CompareAndSwap(old, until) {
			return nil
		}
	}
}

// maintain announces the holder, keeps the lease valid, closes all keys when it has ended, and says which shreddings have
// been seen.
func (k *Keyring) maintain(ctx context.Context) {
	defer close(k.lease.done)
	if err := k.follower.Ready(ctx); err != nil {
		return
	}
	period := k.lease.length / 4
	tick := time.NewTicker(period)
	defer tick.Stop()
	retry := time.NewTicker(max(period/15, 20*time.Millisecond))
	defer retry.Stop()
	var once sync.Once
	behind := true // something could not be said
	renew := true
	for warned := false; ; {
		bounded, cancel := context.WithTimeout(ctx, period)
		var err error
		if k.lease.holder != "" && (behind || !k.lease.isMember()) {
			if err = k.speak(bounded); err == nil {
				once.Do(func() { close(k.lease.joined) })
			}
		}
		if err == nil && renew {
			err = k.confirm(bounded)
			renew = err != nil
		}
		cancel()
		behind = err != nil
		if behind && !warned && ctx.Err() == nil {
			k.log.Warn("keys.events cannot be followed; data keys are used for a while only", "lease", k.lease.length.String(), "error", err)
		}
		warned = behind
		if !k.lease.valid() {
			k.cache.clear()
		}
		var again <-chan time.Time
		if behind {
			again = retry.C
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			renew = true
		case <-k.lease.work:
			behind = true
		case <-again:
		}
	}
}

// speak puts the holder on keys.events and answers the shreddings that wait for it. Everything they revoke has been
// handled before them: they come behind it in the same partition.
func (k *Keyring) speak(ctx context.Context) error {
	if !k.lease.isMember() {
		k.lease.setMember(true) // before the event is read back; a removal behind it is then seen
		err := k.publish(ctx, &event.KeyEvent{KeyID: holderKey(k.lease.holder), Kind: event.KeyEventKindHolder, Holder: k.lease.holder})
		if err != nil {
			k.lease.setMember(false)
			return err
		}
	}
	k.mu.RLock()
	open := k.shreds.unanswered(k.lease.holder)
	k.mu.RUnlock()
	var receipts []*event.KeyEvent
	for _, s := range open {
		receipts = append(receipts, &event.KeyEvent{
			KeyID: receiptKey(s.account, s.id, k.lease.holder), Account: s.account, Kind: event.KeyEventKindReceipt, Holder: k.lease.holder, ShredID: s.id,
		})
	}
	return k.publish(ctx, receipts...)
}

// resign takes the holder from keys.events: nobody needs to wait for it. Where that fails it is waited for until the lease
// is over.
func (k *Keyring) resign() {
	if k.lease.holder == "" || !k.lease.isMember() {
		return
	}
	k.lease.until.Store(0)
	k.cache.clear()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if _, err := k.send(ctx, k.record(holderKey(k.lease.holder), nil)); err != nil {
		k.log.Warn("taking the holder's name back", "error", err)
	}
}
