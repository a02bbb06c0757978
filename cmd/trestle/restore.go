package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/trestle-cni/trestle/cmd/trestle/ui"
	"github.com/trestle-cni/trestle/pkg/bridge"
	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/firewall"
	"github.com/trestle-cni/trestle/pkg/nat"
	"github.com/trestle-cni/trestle/pkg/record"
	"github.com/trestle-cni/trestle/plugins/translator"
)

func newRestoreCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "restore",
		Short: "Make masquerade, mapped ports and policies again after a flush or a firewalld reload",
		Long: `Make masquerade and mapped ports again from their records, in one transaction,
and the MAC spoof checks and the policies of the firewall plugin in others, after "nft flush ruleset", a
reload of firewalld or the like has taken them. Where nothing is missing, nothing
is changed. It says what was made again, network by network, and what was found of
containers that are gone.`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			done, err := restore()
			return errors.Join(err, done.print(a.printer(command)))
		},
	}
}

// restored is what was done, for people and for programs.
type restored struct {
	// Networks are those with a record: what of each was missing and is made again.
	Networks map[string]madeAgain `json:"networks"`
	// Shared says that rules were missing which all networks share.
	Shared bool `json:"shared"`
	// Released are attachments whose containers are gone. Of Taken and Void the kernel
	// told alone: a link or a lease stands for the former, and nobody for the latter.
	Released []string `json:"released"`
	Taken    []string `json:"taken"`
	Void     []string `json:"void"`
}

type madeAgain struct {
	Masquerade bool     `json:"masquerade"`
	Ports      []string `json:"ports"`       // attachments (container/interface) whose mapped ports
	SpoofCheck []string `json:"macspoofchk"` // likewise, whose MAC check
	Firewall   int      `json:"firewall"`    // rules and elements of policies
}

func (m madeAgain) isNothing() bool {
	return !m.Masquerade && len(m.Ports)+len(m.SpoofCheck)+m.Firewall == 0
}

func restore() (restored, error) {
	conn, host := translator.Open()
	defer conn.Close()
	walls := firewall.OpenHost(record.Open(record.DefaultDir))
	defer walls.Close()
	translated, natErr := host.Restore()
	var checked []string
	checkErr := translator.WithSpoofChecks(conn, func(checks bridge.SpoofChecks) (err error) {
		checked, err = checks.Restore()
		return err
	})
	walled, wallErr := walls.Restore()
	return collect(translated, checked, walled), errors.Join(natErr, checkErr, wallErr)
}

// collect orders by network what the parts say.
func collect(translated nat.Restored, checked []string, walled map[string]int) restored {
	done := restored{Networks: map[string]madeAgain{}, Released: translated.Released, Taken: translated.Taken, Void: translated.Void}
	edit := func(network string, change func(*madeAgain)) {
		m := done.Networks[network]
		change(&m)
		done.Networks[network] = m
	}
	for _, network := range translated.Networks {
		edit(network, func(*madeAgain) {})
	}
	for _, label := range translated.Made {
		network, attachment, ofNetwork := strings.Cut(label, "/")
		switch {
		case !ofNetwork:
			done.Shared = true
		case attachment == "":
			edit(network, func(m *madeAgain) { m.Masquerade = true })
		default:
			edit(network, func(m *madeAgain) { m.Ports = append(m.Ports, attachment) })
		}
	}
	for _, label := range checked {
		network, attachment, _ := strings.Cut(label, "/")
		edit(network, func(m *madeAgain) { m.SpoofCheck = append(m.SpoofCheck, attachment) })
	}
	for network, n := range walled {
		edit(strings.TrimSuffix(cni.NetworkLabel(network), "/"), func(m *madeAgain) { m.Firewall = n })
	}
	return done
}

func (r restored) print(p *ui.Printer) error {
	if p.JSON {
		return p.Document(r)
	}
	changed := r.Shared || len(r.Released)+len(r.Taken)+len(r.Void) > 0
	for _, network := range slices.Sorted(maps.Keys(r.Networks)) {
		if m := r.Networks[network]; !m.isNothing() {
			changed = true
			p.Printf("%s: made again %s\n", network, m)
		}
	}
	if r.Shared {
		p.Printf("made again the rules that all networks' mapped ports share\n")
	}
	for _, label := range r.Released {
		p.Printf("%s: the container is gone; its ports are free\n", label)
	}
	for _, label := range r.Taken {
		p.Printf("%s: had no record any more, and is alive; its ports are recorded again\n", label)
	}
	for _, label := range r.Void {
		p.Printf("%s: nobody has it, by record, link or lease; what nftables or iptables had of it is removed\n", label)
	}
	if !changed {
		p.Printf("nothing was missing (%d networks with records)\n", len(r.Networks))
	}
	return nil
}

// String is what was made again, for people.
func (m madeAgain) String() string {
	var parts []string
	if m.Masquerade {
		parts = append(parts, "masquerade")
	}
	if len(m.Ports) > 0 {
		parts = append(parts, "mapped ports of "+strings.Join(m.Ports, ", "))
	}
	if len(m.SpoofCheck) > 0 {
		parts = append(parts, "MAC checks of "+strings.Join(m.SpoofCheck, ", "))
	}
	if m.Firewall > 0 {
		parts = append(parts, fmt.Sprintf("%d rules of the firewall plugin", m.Firewall))
	}
	return strings.Join(parts, "; ")
}
