package nat

import "github.com/trestle-cni/trestle/pkg/cni"

// PortKeys returns the keys that ReadPorts reads.
func PortKeys() []cni.Key {
	return cni.KeysOf(portConfig{}, []cni.Key{
		{Path: "runtimeConfig.portMappings", Doc: "`[{\"hostPort\": 8080, \"containerPort\": 80, \"protocol\": \"tcp\", \"hostIP\": \"192.0.2.1\"}]`, by the capability `portMappings`; the keys of each are the next four"},
		{Path: "runtimeConfig.portMappings[].hostPort", Doc: "1 to 65535"},
		{Path: "runtimeConfig.portMappings[].containerPort", Doc: "1 to 65535"},
		{Path: "runtimeConfig.portMappings[].protocol", Default: "`tcp`", Doc: "`tcp`, `udp` or `sctp`"},
		{Path: "runtimeConfig.portMappings[].hostIP", Default: "all of the host's addresses", Doc: "one address; `0.0.0.0` and `::` mean all of that family. `::1` and IPv6 link-local addresses are refused: the kernel never forwards them"},
		{Path: "backend", Default: "nftables, or iptables where the kernel has no nf_tables (at `bridge`: as `ipMasqBackend`); iptables if one of the last three keys is given, if nerdctl calls, or if kube-proxy works by IPVS ([why](port-mappings.md#when-iptables-rules-bind))", Doc: "`nftables` or `iptables`"},
		{Path: "snat", Default: "`true`", Doc: "masquerade where there would be no answer otherwise: [who gets an answer](port-mappings.md#who-gets-an-answer-and-what-the-container-sees)"},
		{Path: "masqAll", Default: "`false`", Doc: "masquerade every connection to a mapped port (with `snat`)"},
		{Path: "markMasqBit", Default: "`13`", Doc: "iptables: the bit of the packet mark that says \"masquerade\". nftables always uses 13, and only on the first packet of a connection"},
		{Path: "nerdctlID", Doc: "what nerdctl writes into its lists: then iptables is used, where nerdctl looks for ports that are taken"},
		{Path: "externalSetMarkChain", Doc: "iptables only: a chain of another program that marks packets for masquerade, instead of `markMasqBit`; that program masquerades them"},
		{Path: "conditionsV4", Doc: "iptables only: a match of iptables, word by word, like `[\"-s\", \"192.0.2.0/24\"]`, which a packet must meet to be mapped. Conditions of nft, which the reference takes with its nftables backend, are refused"},
		{Path: "conditionsV6", Doc: "the same for IPv6"},
	})
}
