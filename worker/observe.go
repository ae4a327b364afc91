package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	otelprom "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/contrib/opentelemetry"

	"github.com/morgana-deploy/morgana/step"
)

// observer serves GET /healthz (200 if Temporal answers within 3 s, else 503) and
// GET /metrics (Prometheus: the metrics of the SDK, the process and the Go runtime).
type observer struct {
	registry *prometheus.Registry
	listener net.Listener
	server   *http.Server
	metrics  client.MetricsHandler
}

// observe listens on address. It is called first: a taken port is an error before
// anything else is started.
func observe(ctx context.Context, address string, log *slog.Logger) (*observer, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, &step.Error{Kind: step.Conflict, Op: "serve health and metrics", Err: err,
			Hint: "another worker may run here; choose another address by --listen, or 127.0.0.1:0 for any"}
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	exporter, err := otelprom.New(otelprom.WithRegisterer(registry))
	if err != nil {
		return nil, fmt.Errorf("set up metrics: %w", err)
	}
	provider := metric.NewMeterProvider(metric.WithReader(exporter))
	metrics := opentelemetry.NewMetricsHandler(opentelemetry.MetricsHandlerOptions{
		Meter:                provider.Meter("temporal-sdk-go"),
		OnError:              func(err error) { log.Error("metrics", "error", err) },
		UseMonotonicCounters: true,
	})
	return &observer{registry: registry, listener: listener, metrics: metrics}, nil
}

// serve answers requests until close.
func (o *observer) serve(c client.Client, log *slog.Logger) {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(o.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), 3*time.Second)
		defer cancel()
		if _, err := c.CheckHealth(ctx, &client.CheckHealthRequest{}); err != nil {
			http.Error(w, "temporal: "+err.Error(), http.StatusServiceUnavailable)
			return
		}
		_, _ = fmt.Fprintln(w, "ok") // the client is gone
	})
	o.server = &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go func() {
		if err := o.server.Serve(o.listener); !errors.Is(err, http.ErrServerClosed) {
			log.Error("health and metrics", "error", err)
		}
	}()
}

func (o *observer) close() {
	if o.server != nil {
		_ = o.server.Close() // there is nothing to save
	}
}
