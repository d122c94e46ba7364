// Package compat tests Revocast from outside: it builds the real program, runs
// it, and speaks to it over HTTP only, as its users do. Libraries that others
// wrote (github.com/coreos/go-oidc, npm's jose) verify its JWTs; the rest is a
// black-box run of the whole API: a session's life, bad input, restarts and
// kill -9.
//
// It is a module of its own, so that go.mod of the product lists what the
// product needs. It must not import the product.
package compat
