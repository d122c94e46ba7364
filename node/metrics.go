package node

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics are the node's counters. No label ever holds a user, a session or a
// token.
type metrics struct {
	registry *prometheus.Registry

	requests *prometheus.HistogramVec      // by route and status
	verdicts *prometheus.CounterVec        // of verifies
	reasons  map[string]prometheus.Counter // those of verdicts that are common, found without hashing labels; never changes
	applied  *prometheus.CounterVec        // records by stream and trust

	transfers *prometheus.CounterVec // of snapshots between nodes, by result

	deliveries   *prometheus.CounterVec // of events to endpoints: attempts, by type of endpoint and result
	deliveryGaps prometheus.Counter

	lazyImports *prometheus.CounterVec // questions to the systems that sessions come from, by result

	beats, beatFailures, rebuilds, overwrites, repairs, unrepaired, resealed, digestMismatches *prometheus.CounterVec // by stream

	feeds      prometheus.Gauge
	feedEvents prometheus.Counter
	feedEnds   *prometheus.CounterVec // by why

	touches, touchFailures, expired, revivals, minted, mintReused prometheus.Counter
}

func newMetrics(n *Node) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "revocast_" + name, Help: help})
	}
	vec := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "revocast_" + name, Help: help}, labels)
	}
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "revocast_http_request_seconds", Help: "Time to answer a request.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 4, 9),
		}, []string{"route", "status"}),
		transfers:        vec("snapshot_transfer_total", "Snapshots handed from node to node: lent by this one, loaded by it, or given up by it.", "result"),
		lazyImports:      vec("lazy_imports_total", "Questions to other systems about foreign tokens, by result.", "result"),
		deliveries:       vec("deliveries_total", "Attempts to tell endpoints of events, and events given up as dead letters, by type of endpoint and result.", "endpoint", "result"),
		deliveryGaps:     counter("delivery_gaps_total", "Endpoints that were told again what the log says, because it went backwards."),
		verdicts:         vec("verify_total", "Verifies, by verdict.", "verdict"),
		applied:          vec("records_applied_total", "Records applied, by stream and trust.", "stream", "trust"),
		beats:            vec("heartbeats_total", "Heartbeats committed.", "stream"),
		beatFailures:     vec("heartbeat_failures_total", "Heartbeats without an acknowledgement.", "stream"),
		rebuilds:         vec("rebuilds_total", "Times a stream was read again from its beginning.", "stream"),
		overwrites:       vec("overwrites_total", "Events that this cluster did not write where they stand.", "stream"),
		repairs:          vec("repairs_total", "Events appended again over an overwrite or after a loss.", "stream"),
		unrepaired:       vec("repairs_left_total", "Overwritten states left as they are, because their private part is neither kept here nor in the archive.", "stream"),
		resealed:         vec("resealed_total", "Events appended again to be sealed with another cluster key.", "stream"),
		digestMismatches: vec("digest_mismatch_total", "Named positions at which nodes made different things of a stream.", "stream"),

		feeds:      prometheus.NewGauge(prometheus.GaugeOpts{Name: "revocast_feeds", Help: "Feeds of events that are served now."}),
		feedEvents: counter("feed_events_total", "Events written to feeds."),
		feedEnds:   vec("feed_ends_total", "Feeds that ended, by why.", "reason"),

		touches:       counter("touches_total", "Uses of sessions written to the log."),
		touchFailures: counter("touch_failures_total", "Uses of sessions that could not be written."),
		expired:       counter("expired_events_total", "Ends of sessions that ran out, written for subscribers."),
		revivals:      counter("log_revivals_total", "Restarts of the embedded log's server after its disk failed."),
		minted:        counter("jwts_minted_total", "JWTs signed."),
		mintReused:    counter("jwts_reused_total", "JWTs handed out again."),
	}
	m.reasons = map[string]prometheus.Counter{}
	for _, r := range []string{reasonNone, reasonMissing, reasonMalformed, reasonUnknown, reasonExpired, "idle", "revoked", reasonSilent} {
		m.reasons[r] = m.verdicts.WithLabelValues(verdictLabel(r))
	}
	for _, r := range []string{transferLent, transferLoaded, transferGivenUp} {
		m.transfers.WithLabelValues(r)
	}
	for _, r := range []string{lazyImported, lazyUnknown, lazyEnded, lazyFailed, lazyRefused} {
		m.lazyImports.WithLabelValues(r)
	}
	m.registry.MustRegister(m.requests, m.verdicts, m.applied, m.transfers, m.lazyImports, m.beats, m.beatFailures, m.rebuilds, m.overwrites, m.repairs, m.unrepaired, m.resealed, m.digestMismatches,
		m.feeds, m.feedEvents, m.feedEnds, m.touches, m.touchFailures, m.expired, m.revivals, m.minted, m.mintReused,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	gauge := func(name, help string, f func() float64) {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "revocast_" + name, Help: help}, f))
	}
	gauge("sessions", "Sessions held in memory.", func() float64 { s, _ := n.sessions().Len(); return float64(s) })
	gauge("tombstones", "Revocations held in memory whose session is not.", func() float64 { _, t := n.sessions().Len(); return float64(t) })
	gauge("pending_revocations", "Revocations that wait for the home of their sessions to be reached.", func() float64 { return float64(n.countPending()) })
	gauge("expired_events_waiting", "Sessions that ran out and of which nobody has written that yet.", func() float64 { return float64(n.expiries.waiting()) })
	gauge("memory_used_bytes", "Memory that no collection of garbage gives back.", func() float64 { return float64(n.memory.used.Load()) })
	gauge("memory_limit_bytes", "Memory that the process may take; 0: not known.", func() float64 { return float64(n.memory.limit.Load()) })
	gauge("memory_full", "1 while creates are refused for want of memory.", func() float64 {
		if n.memory.full.Load() {
			return 1
		}
		return 0
	})
	m.countDeliveries(n, gauge)
	return m
}

// countDeliveries adds the metrics of deliveries.
func (m *metrics) countDeliveries(n *Node, gauge func(name, help string, f func() float64)) {
	for _, k := range endpointKinds() {
		for _, r := range []string{deliveryTaken, deliveryFailed, deliveryRefused, deliveryDead} {
			m.deliveries.WithLabelValues(k.typ, r)
		}
	}
	m.registry.MustRegister(m.deliveries, m.deliveryGaps)
	gauge("delivery_endpoints", "Endpoints that this node tells of events.", func() float64 { return float64(n.deliveries.count().all) })
	gauge("delivery_endpoints_halted", "Endpoints of those that are paused or disabled.", func() float64 { return float64(n.deliveries.count().halted) })
	gauge("delivery_lag_seconds", "Age of the oldest event that this node has still to deliver.", func() float64 {
		if oldest := n.deliveries.count().oldest; oldest != 0 {
			return max(0, float64(n.wall()-oldest)/1000)
		}
		return 0
	})
}

// follow adds the metrics of one more stream.
func (m *metrics) follow(s *stream) {
	// A counter that appears only with its first event hides that event from
	// whoever asks by how much it grew.
	for _, v := range []*prometheus.CounterVec{m.beats, m.beatFailures, m.rebuilds, m.overwrites, m.repairs, m.unrepaired, m.resealed, m.digestMismatches} {
		v.WithLabelValues(s.region)
	}
	labels := prometheus.Labels{"stream": s.region}
	for name, f := range map[string]func() float64{
		"lease_seconds":    func() float64 { return s.lease.left(s.node.conf.Clock.Boot()).Seconds() },
		"applied_sequence": func() float64 { return float64(s.applied.Load()) },
		"stream_bytes":     func() float64 { return float64(s.bytes.Load()) },
		"stream_max_bytes": func() float64 { return float64(s.maxBytes.Load()) },
	} {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "revocast_" + name, Help: "See the operations manual.", ConstLabels: labels}, f))
	}
}

// verified counts a verify by its reason.
func (m *metrics) verified(reason string) {
	if c, ok := m.reasons[reason]; ok {
		c.Inc()
		return
	}
	m.verdicts.WithLabelValues(reason).Inc()
}

func verdictLabel(reason string) string {
	if reason == reasonNone {
		return "active"
	}
	return reason
}

// Metrics returns the node's metrics, for a listener of their own.
func (n *Node) Metrics() http.Handler {
	return promhttp.HandlerFor(n.metrics.registry, promhttp.HandlerOpts{})
}

// Register adds the collectors of what is under the node to its metrics.
func (n *Node) Register(cs ...prometheus.Collector) { n.metrics.registry.MustRegister(cs...) }
