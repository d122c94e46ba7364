// Package compat tests Revocast from outside: it builds the real program, runs
// it, and speaks to it over HTTP only, as its users do. Libraries that others
// wrote (github.com/coreos/go-oidc, npm's jose) verify its JWTs; web frameworks
// (npm's express-session, github.com/alexedwards/scs) keep their sessions in it;
// the rest is a black-box run of the whole API: what the systems it replaces can
// do as a table, a session's life, bad input, restarts and kill -9.
//
// It is a module of its own, so that go.mod of the product lists what the
// product needs. It must not import the product, but for the clients below
// node/client, which its users import too.
package compat
