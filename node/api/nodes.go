package api

import "time"

// Ready answers GET /readyz.
type Ready struct {
	Meta
	NodeStatus
}

// NodeStatus is what a node says of itself.
type NodeStatus struct {
	Ready      bool   `json:"ready"`
	Node       string `json:"node"`
	Region     string `json:"region"`
	Version    string `json:"version"`
	Durability string `json:"durability"` // fsync, interval, unverified
	// Incarnation is one life of the process.
	Incarnation string `json:"incarnation"`
	// Format is the newest version of events that it reads.
	Format int `json:"format"`
	// ClusterKeys are the ids of those it holds; the first seals.
	ClusterKeys []string `json:"cluster_keys"`
	// ClockOffsetMS is the log's stamp on its newest heartbeat minus its wall clock; absent before the first.
	ClockOffsetMS *int64 `json:"clock_offset_ms,omitempty"`
	// ConfigStaleMS is how long ago it knew all of CONFIG, whose settings and keys it goes on with; -1: never.
	ConfigStaleMS int64         `json:"config_stale_ms"`
	Streams       []StreamState `json:"streams"`
	Sessions      int           `json:"sessions"`
	Tombstones    int           `json:"tombstones"`
	// Memory is what the process takes of what it may; absent: no limit is known.
	Memory *MemoryState `json:"memory,omitempty"`
	// Problems are what is wrong, or soon will be; absent: nothing.
	Problems []Problem `json:"problems,omitempty"`
}

// MemoryState says how much memory a node has left.
type MemoryState struct {
	// UsedBytes is what no collection of garbage gives back.
	UsedBytes  uint64 `json:"used_bytes"`
	LimitBytes uint64 `json:"limit_bytes"`
	// Full: sessions are not created.
	Full bool `json:"full"`
}

// Problem is one thing that is wrong with a node.
type Problem struct {
	// State is its stable name; messages are not stable.
	State   string `json:"state"`
	Stream  string `json:"stream,omitempty"`
	Message string `json:"message"` // what it means and what to do
}

// States of a Problem, beside the reasons for which a node is fenced.
const (
	ProblemDenied       = "denied"          // the NATS user lacks a permission
	ProblemNameTaken    = "name_taken"      // another process uses the node's name
	ProblemNewerFormat  = "newer_format"    // another node is of a newer version
	ProblemKeyMissing   = "key_missing"     // another node holds a cluster key that this one lacks
	ProblemLeaseDiffers = "lease_differs"   // another node has leases of another length
	ProblemUnreachable  = "unreachable"     // the stream of a region was never reached
	ProblemDigest       = "digest_mismatch" // nodes made different things of a stream
	ProblemLogDead      = "log_dead"        // the embedded log takes no writes
	ProblemLogFull      = "log_full"        // a stream is above the share of its budget at which creates are refused
	ProblemMemoryFull   = "memory_full"     // the node's memory is above the share of its limit at which creates are refused
)

// States of a Node.
const (
	NodeReady  = "ready"
	NodeFenced = "fenced" // it answers, but not about sessions of its region
	NodeSilent = "silent" // it does not answer other nodes
	NodeLeft   = "left"   // it said farewell
)

// Node is one life of a node, as the log of the last four leases and the node
// itself show it.
type Node struct {
	Node        string `json:"node"`
	Incarnation string `json:"incarnation"`
	Region      string `json:"region,omitempty"`
	State       string `json:"state"` // ready, fenced, silent, left
	// LastHeard is the log's stamp on the newest it wrote; absent: nothing is in the log.
	LastHeard *time.Time `json:"last_heard,omitempty"`
	// Status is what it says of itself; absent: it did not answer within a second.
	Status *NodeStatus `json:"status,omitempty"`
}

// NodeList answers GET /v1/nodes.
type NodeList struct {
	Meta
	Nodes []Node `json:"nodes"`
}
