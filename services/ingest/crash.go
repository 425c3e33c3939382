package ingest

import "databus/pkg/stream"

// Places between two steps, at which a test's hook (service.Env.Crash) may end the process. Random kills almost never hit
// them. Those of a loop are the stream package's, behind the loop's group and a colon; those inside a move are
// identity.MoveWritten and identity.MoveCleared.
const (
	// PointAcknowledged: a record of a single call is on the Databus, and the caller doesn't know it.
	PointAcknowledged = "api: acknowledged"
	// PointBatch: a batch's record is on the Databus, those before it are answered, it is not.
	PointBatch = "api: inside a batch"
	// PointApplied: the applier's batch is in the store, its offsets are not committed.
	PointApplied = "applier: applied"
)

// LoopPoint names a point of the request loop (evidence false) or of the evidence loop.
func LoopPoint(evidence bool, p stream.Point) string {
	if evidence {
		return evidenceGroup + ": " + string(p)
	}
	return requestsGroup + ": " + string(p)
}

// at calls the hook, if there is one.
func (s *Service) at(point string) error {
	if s.env.Crash == nil {
		return nil
	}
	return s.env.Crash(point)
}

// loopCrash is the hook of one loop.
func (s *Service) loopCrash(group string) func(stream.Point) error {
	if s.env.Crash == nil {
		return nil
	}
	return func(p stream.Point) error { return s.env.Crash(group + ": " + string(p)) }
}
