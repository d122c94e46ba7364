package bench

import (
	"math/bits"
	"time"
)

// fineBits is how finely a histogram tells durations apart: 2^fineBits buckets
// for each power of two, so that a bucket is less than 0.8 % wide.
const fineBits = 7

// bucketCount reaches to 2^40 ns, 18 minutes; what takes longer counts as that.
const bucketCount = (40-fineBits+1)<<fineBits + 1

// Histogram counts durations in buckets whose width grows with them. It never
// allocates once made. The zero value is empty and ready; it is not safe for
// concurrent use.
type Histogram struct {
	counts [bucketCount]uint32
	total  uint64
	sum    time.Duration
	min    time.Duration
	max    time.Duration
}

// bucketOf returns the bucket of a duration.
func bucketOf(d time.Duration) int {
	v := uint64(max(d, 0))
	if v < 1<<fineBits {
		return int(v)
	}
	power := bits.Len64(v) - 1 - fineBits
	return min(power<<fineBits+int(v>>power), bucketCount-1)
}

// bucketEnd returns the longest duration of a bucket.
func bucketEnd(i int) time.Duration {
	if i < 1<<fineBits {
		return time.Duration(i)
	}
	power := i>>fineBits - 1
	return time.Duration(uint64(i&(1<<fineBits-1)+1<<fineBits+1)<<power - 1)
}

// Add counts a duration.
func (h *Histogram) Add(d time.Duration) {
	d = max(d, 0)
	h.counts[bucketOf(d)]++
	if h.total == 0 || d < h.min {
		h.min = d
	}
	h.total++
	h.sum += d
	h.max = max(h.max, d)
}

// Merge counts all that other has counted.
func (h *Histogram) Merge(other *Histogram) {
	if other.total == 0 {
		return
	}
	for i, n := range other.counts {
		h.counts[i] += n
	}
	if h.total == 0 || other.min < h.min {
		h.min = other.min
	}
	h.total += other.total
	h.sum += other.sum
	h.max = max(h.max, other.max)
}

// Count returns how many durations were counted.
func (h *Histogram) Count() uint64 { return h.total }

// Max returns the longest duration, exactly.
func (h *Histogram) Max() time.Duration { return h.max }

// Mean returns the mean, exactly; 0 of nothing.
func (h *Histogram) Mean() time.Duration {
	if h.total == 0 {
		return 0
	}
	return h.sum / time.Duration(h.total)
}

// Quantile returns a duration that the share q (0 to 1) of all did not exceed,
// at most 0.8 % too long; 0 of nothing.
func (h *Histogram) Quantile(q float64) time.Duration {
	if h.total == 0 {
		return 0
	}
	rank := uint64(q * float64(h.total))
	if float64(rank) < q*float64(h.total) || rank == 0 {
		rank++
	}
	if rank >= h.total {
		return h.max
	}
	seen := uint64(0)
	for i, n := range h.counts {
		if seen += uint64(n); seen >= rank {
			return max(h.min, min(bucketEnd(i), h.max))
		}
	}
	return h.max
}
