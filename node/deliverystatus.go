package node

import (
	"cmp"
	"slices"
	"strings"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/projection"
)

// deliveryStatus returns how the endpoint stands to the events of each region.
func (n *Node) deliveryStatus(snap *projection.Snapshot, id endpointID, d *deliverySetting) []api.Delivery {
	regions := map[string]bool{n.home.region: true}
	for r := range snap.Regions() {
		regions[r.Region] = true
	}
	all := make([]api.Delivery, 0, len(regions))
	for region := range regions {
		all = append(all, n.deliveryIn(snap, id, region, d))
	}
	slices.SortFunc(all, func(a, b api.Delivery) int { return strings.Compare(a.Region, b.Region) })
	return all
}

func (n *Node) deliveryIn(snap *projection.Snapshot, id endpointID, region string, d *deliverySetting) api.Delivery {
	p, begun := progressOf(snap, id, region, d.Born)
	out := api.Delivery{
		Region: region, Status: api.EndpointEnabled, Revision: p.Position,
		LastSuccessAt: moment(p.SucceededAt), DeadLetters: deadLettersOf(snap, id, region, d.Born).Total,
	}
	if !begun {
		out.Revision = d.Start[region]
	}
	if begun && p.Turn >= d.Turn { // else it is about to begin anew
		if p.State != "" {
			out.Status, out.Reason, out.Since = p.State, p.Reason, moment(p.StateAt)
		}
		if f := p.Failing; f != nil {
			if f.LoggedAt != 0 {
				out.LagSeconds = max(0, n.wall()-f.LoggedAt) / 1000
			}
			out.Failing = &api.DeliveryFailing{
				Revision: f.Revision, Since: fromMS(f.Since), Attempts: f.Attempts, Status: f.Status, Reason: f.Reason, NextAt: fromMS(f.NextAt),
			}
		}
	}
	if d.Off {
		out.Status, out.Reason, out.Since = api.EndpointDisabled, "by the app", nil
	}
	if g := p.Gap; g != nil {
		out.Gap = &api.DeliveryGap{From: g.From, To: g.To, At: fromMS(g.At), Count: g.Count}
	}
	return out
}

// worstOf returns the status of an endpoint of which these are those of the regions.
func worstOf(all []api.Delivery) (status, reason string) {
	rank := []string{api.EndpointEnabled, api.EndpointPaused, api.EndpointDisabled}
	worst := slices.MaxFunc(all, func(a, b api.Delivery) int {
		return cmp.Compare(slices.Index(rank, a.Status), slices.Index(rank, b.Status))
	})
	return worst.Status, worst.Reason
}

// replayable returns the place of each region from which events are to be delivered
// again.
func (n *Node) replayable(text string) (map[string]string, error) {
	from, err := parseRevision(text)
	if err != nil {
		return nil, badSetting("from", "%v", err)
	}
	out := map[string]string{}
	for _, p := range from {
		if p.Stream == events.ConfigRegion {
			continue
		}
		s := n.streamOf(p.Stream)
		if s == nil {
			return nil, badSetting("from", "this node follows no stream %s", p.Stream)
		}
		if now := s.position(); p.Gen != now.Gen || p.Seq > now.Seq {
			return nil, badSetting("from", "%s is no place that the stream has passed; it is at %s", p, now)
		}
		out[p.Stream] = p.String()
	}
	if len(out) == 0 {
		return nil, badSetting("from", "it names no region")
	}
	return out, nil
}
