package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/revocast/revocast/events"
)

// StreamInfo is what the servers say of a stream.
type StreamInfo struct {
	// Config is its whole configuration, as JSON.
	Config json.RawMessage `json:"config"`
	State  struct {
		LastSeq uint64 `json:"last_seq"`
	} `json:"state"`
	Cluster *struct {
		Leader   string `json:"leader"`
		Replicas []struct {
			Current bool `json:"current"`
			Offline bool `json:"offline"`
		} `json:"replicas"`
	} `json:"cluster"`
	Error *struct {
		Description string `json:"description"`
	} `json:"error"`
}

// ask sends a request to the JetStream API of the first region, as the operator.
func (f *Fleet) ask(ctx context.Context, subject string, body []byte) (*StreamInfo, error) {
	if f.operator == nil {
		var urls []string
		for _, b := range f.Brokers {
			if b.Region == f.Brokers[0].Region {
				urls = append(urls, "nats://operator:"+password("OPERATOR")+"@"+b.Addr)
			}
		}
		nc, err := events.Connect(events.ConnectConfig{URL: strings.Join(urls, ","), Name: "fleet"})
		if err != nil {
			return nil, err
		}
		f.operator = nc
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	m, err := f.operator.RequestWithContext(ctx, subject, body)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", subject, err)
	}
	info := new(StreamInfo)
	if err := json.Unmarshal(m.Data, info); err != nil {
		return nil, fmt.Errorf("ask %s: %w", subject, err)
	}
	if info.Error != nil {
		return nil, fmt.Errorf("ask %s: %s", subject, info.Error.Description)
	}
	return info, nil
}

// Stream returns what the servers of the first region say of a stream.
func (f *Fleet) Stream(ctx context.Context, name string) (*StreamInfo, error) {
	return f.ask(ctx, "$JS.API.STREAM.INFO."+name, nil)
}

// Steady returns the broker that leads the stream, once all its copies are up to
// date: with one of three still catching up, a kill would leave no quorum.
func (f *Fleet) Steady(ctx context.Context, name string) (*Broker, error) {
	for {
		info, err := f.Stream(ctx, name)
		if err == nil && info.Cluster != nil && info.Cluster.Leader != "" {
			behind := 0
			for _, r := range info.Cluster.Replicas {
				if !r.Current || r.Offline {
					behind++
				}
			}
			if behind == 0 && len(info.Cluster.Replicas) == 2 {
				return f.Broker(info.Cluster.Leader)
			}
		}
		if ended := pause(ctx, 50*time.Millisecond); ended != nil {
			return nil, errors.Join(ended, err)
		}
	}
}

// Recreate deletes the stream and makes it again, empty and with the same
// identity. It returns the last sequence it had.
func (f *Fleet) Recreate(ctx context.Context, name string) (uint64, error) {
	info, err := f.Stream(ctx, name)
	if err != nil {
		return 0, err
	}
	if _, err := f.ask(ctx, "$JS.API.STREAM.DELETE."+name, nil); err != nil {
		return 0, err
	}
	for {
		_, err := f.ask(ctx, "$JS.API.STREAM.CREATE."+name, info.Config)
		if err == nil {
			return info.State.LastSeq, nil
		}
		if ended := pause(ctx, 50*time.Millisecond); ended != nil {
			return 0, errors.Join(ended, err)
		}
	}
}

// Follower opens the stream of the first region on a connection of its own, to
// the i-th server, as a node would. The connection ends with the fleet.
func (f *Fleet) Follower(ctx context.Context, i int) (*events.JetStream, error) {
	nc, err := events.Connect(events.ConnectConfig{
		URL: "nats://node:" + password("NODE") + "@" + f.Brokers[i%len(f.Brokers)].Addr, Name: fmt.Sprintf("follower-%d", i),
	})
	if err != nil {
		return nil, err
	}
	f.conns = append(f.conns, nc)
	return events.Open(ctx, nc, events.StreamConfig{Region: f.Brokers[0].Region})
}

// Connections returns what each server says of its clients, as JSON (CONNZ).
func (f *Fleet) Connections(ctx context.Context) (all [][]byte, err error) {
	for _, b := range f.Brokers {
		nc, err := events.Connect(events.ConnectConfig{URL: "nats://sys:" + password("SYS") + "@" + b.Addr, Name: "fleet"})
		if err != nil {
			return nil, err
		}
		asking, cancel := context.WithTimeout(ctx, 2*time.Second)
		m, err := nc.RequestWithContext(asking, "$SYS.REQ.SERVER."+nc.ConnectedServerId()+".CONNZ", []byte(`{"limit":4096}`))
		cancel()
		nc.Close()
		if err != nil {
			return nil, fmt.Errorf("ask %s for its connections: %w", b.Name, err)
		}
		all = append(all, m.Data)
	}
	return all, nil
}

// Others returns the brokers of the fleet but for one.
func (f *Fleet) Others(b *Broker) []*Broker {
	return slices.DeleteFunc(slices.Clone(f.Brokers), func(o *Broker) bool { return o == b })
}
