package main

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/revocast/revocast/events"
)

// logCollector shows what the logs have done as metrics. The label stream is a
// log's region.
type logCollector struct{ logs []*events.JetStream }

var (
	logAppends = prometheus.NewDesc("revocast_log_appends_total", "Appends, by outcome.", []string{"stream", "outcome"}, nil)
	logResumes = prometheus.NewDesc("revocast_log_resumes_total", "Times following began again at its anchor, by cause.", []string{"stream", "cause"}, nil)
	logRetries = prometheus.NewDesc("revocast_log_append_retries_total", "Publishes sent again because no answer came.", []string{"stream"}, nil)
	logBatches = prometheus.NewDesc("revocast_log_batches_total", "Groups of events committed together.", []string{"stream"}, nil)
	logBatched = prometheus.NewDesc("revocast_log_batch_events_total", "Events in such groups.", []string{"stream"}, nil)
	logRefused = prometheus.NewDesc("revocast_log_batches_refused_total", "Groups that were sent again event by event.", []string{"stream"}, nil)
	logGaps    = prometheus.NewDesc("revocast_log_gaps_total", "Holes in the live tail that were filled from the stream.", []string{"stream"}, nil)
	logRewinds = prometheus.NewDesc("revocast_log_rewinds_total", "Times the log was found to have gone backwards.", []string{"stream"}, nil)
)

// Describe implements [prometheus.Collector].
func (*logCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{logAppends, logResumes, logRetries, logBatches, logBatched, logRefused, logGaps, logRewinds} {
		ch <- d
	}
}

// Collect implements [prometheus.Collector].
func (c *logCollector) Collect(ch chan<- prometheus.Metric) {
	for _, l := range c.logs {
		n := l.Counters()
		count := func(d *prometheus.Desc, v uint64, labels ...string) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), append([]string{l.Region()}, labels...)...)
		}
		for outcome, v := range n.Appends {
			count(logAppends, v, outcome)
		}
		for cause, v := range n.Resumes {
			count(logResumes, v, cause)
		}
		count(logRetries, n.Retries)
		count(logBatches, n.Batches)
		count(logBatched, n.BatchEvents)
		count(logRefused, n.BatchesRefused)
		count(logGaps, n.Gaps)
		count(logRewinds, n.Rewinds)
	}
}
