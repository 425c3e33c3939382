package usagehistory

import (
	"context"
	"time"

	"databus/schemas/event"
)

// source counts history.
type source interface {
	// answer counts for requests. Of each it says what came out; an error means that nothing did.
	answer(ctx context.Context, asked []*event.BaselineRequest) ([]outcome, error)
}

// outcome is what came of a request: an answer, a reason why there will never be one, or a time before which there is none.
type outcome struct {
	answer  *event.Baseline
	refused string
	wait    time.Time
}

const noRoom = "baseline request: a sum of the answer would be beyond what can be added up"
