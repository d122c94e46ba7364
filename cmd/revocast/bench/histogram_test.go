package bench

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var durations = rapid.SliceOfN(rapid.Int64Range(0, int64(20*time.Minute)), 1, 400)

func histogramOf(all []int64) *Histogram {
	h := new(Histogram)
	for _, d := range all {
		h.Add(time.Duration(d))
	}
	return h
}

// TestHistogramQuantile holds every quantile against the sorted durations: never
// too short, and at most 0.8 % too long.
func TestHistogramQuantile(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := durations.Draw(t, "durations")
		h := histogramOf(all)
		slices.Sort(all)
		q := rapid.Float64Range(0, 1).Draw(t, "q")
		rank := max(1, int(q*float64(len(all))))
		if float64(rank) < q*float64(len(all)) {
			rank++
		}
		want, got := all[min(rank, len(all))-1], int64(h.Quantile(q))
		if want >= int64(18*time.Minute) { // the last bucket has them all
			if got < int64(18*time.Minute) {
				t.Fatalf("quantile %g is %d, want %d", q, got, want)
			}
			return
		}
		if got < want || float64(got) > float64(want)*1.008+1 {
			t.Fatalf("quantile %g is %d, want %d", q, got, want)
		}
	})
}

func TestHistogramMerge(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := durations.Draw(t, "a"), rapid.SliceOf(rapid.Int64Range(0, 1e9)).Draw(t, "b")
		merged := histogramOf(a)
		merged.Merge(histogramOf(b))
		if whole := histogramOf(append(slices.Clone(a), b...)); *merged != *whole {
			t.Fatalf("merged %d durations of %v to %v, want %d of %v to %v", merged.total, merged.min, merged.max, whole.total, whole.min, whole.max)
		}
	})
}

func TestHistogramBuckets(t *testing.T) {
	for i := range bucketCount - 1 {
		if end := bucketEnd(i); bucketOf(end) != i || bucketOf(end+1) != i+1 {
			t.Fatalf("bucket %d ends at %d, which is in %d, and the next in %d", i, end, bucketOf(end), bucketOf(end+1))
		}
	}
	var h Histogram
	if h.Quantile(0.5) != 0 || h.Mean() != 0 || h.Count() != 0 {
		t.Error("an empty histogram is not 0")
	}
	h.Add(-time.Second)
	h.Add(3 * time.Microsecond)
	if h.Quantile(0) != 0 || h.Quantile(1) != 3*time.Microsecond || h.Mean() != 1500 || h.Max() != 3*time.Microsecond {
		t.Errorf("quantiles %v and %v, mean %v", h.Quantile(0), h.Quantile(1), h.Mean())
	}
}
