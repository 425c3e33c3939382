package refusal

import (
	"context"
	"math"
	"slices"
	"testing"
	"time"

	"databus/pkg/embedded"
)

// A tiny run on embedded parts: everything is refused in the end, and what was admitted beyond the limits is what the
// rate explains, and what the view says.
func TestTiny(t *testing.T) {
	stack := embedded.ForTest(t)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	r, err := Run(ctx, Options{Brokers: stack.Broker.Seeds(), Registry: stack.Registry.URL(), Rate: 200, Accounts: 6, AtOnce: 3, Limit: 20, Commit: 20 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Delays) != 6 || r.View.Crossings != 6 {
		t.Fatalf("%+v", r)
	}
	for i, n := range r.Overshoot {
		if n < 0 || math.Abs(float64(n)-r.Predicted[i]) > 0.5*r.Predicted[i]+10 {
			t.Errorf("account %d was let through %d calls beyond its limit, %.1f are explained", i, n, r.Predicted[i])
		}
	}
	if worst := slices.Max(r.Overshoot); r.View.Worst < worst {
		t.Errorf("the view measured an overshoot of %d, the callers one of %d", r.View.Worst, worst)
	}
	t.Logf("delays %v, overshoot %v", r.Delays, r.Overshoot)
}
