// Package wycheproof holds the strict JWT parser against the public test vectors
// of Project Wycheproof and against the list of known attacks on JWTs.
//
// It is a module of its own: the vectors are 109 MB of files, which nobody who
// builds Revocast needs.
package wycheproof
