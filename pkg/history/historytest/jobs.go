package historytest

import (
	"sync"

	"github.com/twmb/franz-go/pkg/kgo"

	"databus/pkg/follow"
	"databus/schemas/codec"
)

// Send produces an event.
func Send[T any](w *World, topic, key string, value *T) {
	w.T.Helper()
	b, err := codec.For[T](w.Codec, topic).Encode(w.T.Context(), value)
	w.must(err)
	w.must(w.Client.ProduceSync(w.T.Context(), &kgo.Record{Topic: topic, Key: []byte(key), Value: b}).FirstErr())
}

// Events collects the events of a topic under one key.
type Events[T any] struct {
	mu  sync.Mutex
	all []T
}

// Listen starts to collect, from the topic's beginning.
func Listen[T any](w *World, topic, key string) *Events[T] {
	w.T.Helper()
	e := &Events[T]{}
	serde := codec.For[T](w.Codec, topic)
	f, err := follow.Topic(w.T.Context(), w.kafka(), topic, func(rec *kgo.Record) {
		if string(rec.Key) != key {
			return
		}
		var v T
		if err := serde.Decode(w.T.Context(), rec.Value, &v); err != nil {
			w.T.Errorf("event of %s: %v", topic, err)
			return
		}
		e.mu.Lock()
		defer e.mu.Unlock()
		e.all = append(e.all, v)
	})
	w.must(err)
	w.T.Cleanup(f.Close)
	return e
}

// All returns what has come up to now.
func (e *Events[T]) All() []T {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]T(nil), e.all...)
}

// Until waits for an event for which f holds.
func (e *Events[T]) Until(w *World, what string, f func(T) bool) T {
	w.T.Helper()
	var found T
	w.Eventually(what, func() bool {
		for _, v := range e.All() {
			if f(v) {
				found = v
				return true
			}
		}
		return false
	})
	return found
}
