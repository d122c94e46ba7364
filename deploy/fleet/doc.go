// Package fleet runs the program itself, several brokers and several nodes of
// it on loopback, harms them, and judges what clients were told.
//
// A Fleet is the NATS servers of deploy/nats as processes, and nodes ("serve")
// as processes whose only way to a server is a Link: a TCP proxy in this process
// that can hold, delay and break what passes, each way apart. Processes are
// killed, stopped and ended by signals. A Load makes requests to all nodes and
// writes down what it was told, with one clock, in the history of
// node/nodetest, whose checkers then say which promise was broken.
//
// The tests are the scenarios; the benchmarks print the figures; and
// TestSoak harms a fleet at random from one seed for as long as it is told. See
// README.md.
package fleet
