package outbound

import "net/netip"

// special are the networks that are not public though they are global unicast
// by their form: the IANA registries of special-purpose addresses (RFC 6890),
// and those that hold another address within, behind which anything may lie.
var special = prefixes(
	"0.0.0.0/8",       // this network
	"10.0.0.0/8",      // private
	"100.64.0.0/10",   // carriers' own, RFC 6598; some clouds' metadata
	"127.0.0.0/8",     // this host
	"169.254.0.0/16",  // this link; clouds' metadata
	"172.16.0.0/12",   // private
	"192.0.0.0/24",    // protocol assignments
	"192.0.2.0/24",    // documentation
	"192.88.99.0/24",  // 6to4 relays
	"192.168.0.0/16",  // private
	"198.18.0.0/15",   // benchmarks
	"198.51.100.0/24", // documentation
	"203.0.113.0/24",  // documentation
	"224.0.0.0/3",     // multicast, reserved, broadcast
	"2001::/23",       // protocol assignments: Teredo and others
	"2001:db8::/32",   // documentation
	"2002::/16",       // 6to4
	"3fff::/20",       // documentation
)

// unicast6 is what IANA has given out as global unicast of IPv6: loopback,
// unique local and link-local addresses, IPv4 within, NAT64 (64:ff9b::/96) and
// multicast all lie outside.
var unicast6 = netip.MustParsePrefix("2000::/3")

// public reports whether the address belongs to the public Internet.
func public(a netip.Addr) bool {
	a = a.Unmap()
	if a.Is6() && !unicast6.Contains(a) {
		return false
	}
	for _, p := range special {
		if p.Contains(a) {
			return false
		}
	}
	return a.IsValid()
}

func prefixes(texts ...string) (all []netip.Prefix) {
	for _, t := range texts {
		all = append(all, netip.MustParsePrefix(t))
	}
	return all
}
