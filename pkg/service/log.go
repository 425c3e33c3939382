package service

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"
)

func logLevel(s string) (slog.Level, error) {
	switch strings.ToLower(s) {
	case "debug":
		return slog.LevelDebug, nil
	case "info":
		return slog.LevelInfo, nil
	case "warn":
		return slog.LevelWarn, nil
	case "error":
		return slog.LevelError, nil
	}
	return 0, fmt.Errorf("%q is unknown; use debug, info, warn or error", s)
}

// NewLogger returns a logger as the configuration says; an unknown level means info.
func NewLogger(c LogConfig, w io.Writer) *slog.Logger {
	level, _ := logLevel(c.Level)
	opts := &slog.HandlerOptions{Level: level}
	if c.Format == "text" {
		return slog.New(slog.NewTextHandler(w, opts))
	}
	return slog.New(slog.NewJSONHandler(w, opts))
}

// kafkaLogger hands the Kafka client's messages on. The client's "info" tells of each of its steps and is debug here.
type kafkaLogger struct{ log *slog.Logger }

func (l kafkaLogger) Level() kgo.LogLevel {
	switch h := l.log.Handler(); {
	case h.Enabled(context.Background(), slog.LevelDebug):
		return kgo.LogLevelInfo
	case h.Enabled(context.Background(), slog.LevelWarn):
		return kgo.LogLevelWarn
	}
	return kgo.LogLevelError
}

func (l kafkaLogger) Log(level kgo.LogLevel, msg string, keyvals ...any) {
	switch level {
	case kgo.LogLevelError:
		l.log.Error("kafka: "+msg, keyvals...)
	case kgo.LogLevelWarn:
		l.log.Warn("kafka: "+msg, keyvals...)
	default:
		l.log.Debug("kafka: "+msg, keyvals...)
	}
}
