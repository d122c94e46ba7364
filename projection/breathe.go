package projection

import "runtime"

// breatheEvery is how many records are some 100 µs of work.
const breatheEvery = 64

// breathe lets others run now and then in what walks over many records. The
// scheduler would do so only after ten milliseconds, for which requests would
// wait wherever this has the last free core. It is for what holds no lock and is
// in no hurry: a revocation, however many sessions it is of, lets nobody go first.
func breathe(n *int) {
	if *n++; *n%breatheEvery == 0 {
		runtime.Gosched()
	}
}
