package service

import (
	"context"
	"fmt"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// tracing is a process's tracer provider. Without an endpoint it records nothing and costs nothing: the Kafka clients
// then carry no hooks at all, because a span for each record would be paid for in the hot path.
type tracing struct {
	provider trace.TracerProvider
	on       bool
	stop     func(context.Context) error
}

// Propagator is W3C trace context with baggage, in Kafka headers and in HTTP headers alike.
func Propagator() propagation.TextMapPropagator {
	return propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{})
}

func startTracing(ctx context.Context, c TraceConfig, name, instance, version string, opts ...sdktrace.TracerProviderOption) (*tracing, error) {
	if c.Endpoint == "" && len(opts) == 0 {
		return &tracing{provider: noop.NewTracerProvider(), stop: func(context.Context) error { return nil }}, nil
	}
	all := []sdktrace.TracerProviderOption{
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(c.SampleRatio))),
		sdktrace.WithResource(resource.NewSchemaless(
			attribute.String("service.namespace", "databus"),
			attribute.String("service.name", name),
			attribute.String("service.instance.id", instance),
			attribute.String("service.version", version),
		)),
	}
	if c.Endpoint != "" {
		// The exporter connects when it first sends; an unreachable collector loses traces and nothing else.
		exporter, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(c.Endpoint))
		if err != nil {
			return nil, fmt.Errorf("opening trace exporter: %w", err)
		}
		all = append(all, sdktrace.WithBatcher(exporter))
	}
	p := sdktrace.NewTracerProvider(append(all, opts...)...)
	return &tracing{provider: p, on: true, stop: p.Shutdown}, nil
}
