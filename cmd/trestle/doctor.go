package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/trestle-cni/trestle/cmd/trestle/container"
	"github.com/trestle-cni/trestle/cmd/trestle/doctor"
	"github.com/trestle-cni/trestle/cmd/trestle/inventory"
	"github.com/trestle-cni/trestle/cmd/trestle/ui"
)

type doctorOptions struct {
	*app
	fix bool
}

func newDoctorCommand(a *app) *cobra.Command {
	o := doctorOptions{app: a}
	command := &cobra.Command{
		Use:   "doctor",
		Short: "Find what is wrong with the host's networks, and say how to fix it",
		Long: `Find what is wrong with the host's networks: forwarding that is off, chains that drop,
missing rules, subnets and ports that another program uses, files that no runtime
accepts, what dead containers have left. Each finding names the command that fixes it.

Nothing is changed without --fix, which does only what cannot harm anybody: it sets
sysctls that a network needs, removes write permissions of users other than root, and
does what trestle gc and trestle restore do. It looks again afterwards.

Exit status: 0 if nothing is wrong, or all has been fixed; 3 if something is.`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error { return o.run(command.Context(), a.printer(command)) },
	}
	command.Flags().BoolVar(&o.fix, "fix", false, "fix what can be fixed without harm to anybody")
	return command
}

// errNeedsRoot is the error without root: links of live containers would look leaked to one
// who cannot read the leases.
var errNeedsRoot = errors.New("findings: only root can read the leases, records and rules that they depend on: sudo trestle …")

// examine reads the whole host, runs all checks, and prints what could not be read to standard
// error.
func (a *app) examine(ctx context.Context, p *ui.Printer) (*inventory.Snapshot, []doctor.Finding, error) {
	if os.Geteuid() != 0 {
		return nil, nil, errNeedsRoot
	}
	snapshot, err := a.take(p)
	if err != nil {
		return nil, nil, err
	}
	host, found := a.look(ctx, snapshot)
	for _, problem := range host.Problems {
		p.Notef("trestle: %s", problem)
	}
	return snapshot, found, nil
}

// look runs the checks on a snapshot. The host's Problems say what could not be read.
func (a *app) look(ctx context.Context, snapshot *inventory.Snapshot) (*doctor.Host, []doctor.Finding) {
	source := inventory.DefaultSource()
	killed := map[string]string{}
	for _, c := range container.Killed() {
		killed[c.Name] = c.NetNS
	}
	host := doctor.Look(ctx, snapshot, doctor.Sources{
		Lists: a.lists, Plugins: a.plugins, Records: source.Records, Leases: source.Leases, Release: release, Killed: killed,
	})
	defer host.Close()
	if os.Geteuid() != 0 {
		host.Problems = append(host.Problems, errNeedsRoot.Error())
		return host, nil
	}
	return host, doctor.Examine(host)
}

func (o doctorOptions) run(ctx context.Context, p *ui.Printer) error {
	_, found, err := o.examine(ctx, p)
	if err != nil {
		return err
	}
	var failed error
	if o.fix && slices.ContainsFunc(found, func(f doctor.Finding) bool { return f.Fixable }) {
		failed = o.fixAll(ctx, found)
		_, left, err := o.examine(ctx, p)
		if err != nil {
			return errors.Join(failed, err)
		}
		found = compare(found, left)
	}
	if err := printFindings(p, found); err != nil {
		return err
	}
	if failed != nil {
		return failed
	}
	if slices.ContainsFunc(found, func(f doctor.Finding) bool { return !f.Fixed }) {
		return errFound
	}
	return nil
}

func (o doctorOptions) fixAll(ctx context.Context, found []doctor.Finding) error {
	if err := checkLayouts(ctx, o.plugins); err != nil {
		return err
	}
	return doctor.Fix(ctx, found, doctor.Tools{
		GC: func() error { return gcOptions{app: o.app}.run(ctx, ui.New(io.Discard, io.Discard, false), nil) },
		Restore: func() error {
			_, err := restore()
			return err
		},
	})
}

// compare marks findings that are fixed, and adds new ones.
func compare(found, left []doctor.Finding) []doctor.Finding {
	same := func(f doctor.Finding) func(doctor.Finding) bool {
		return func(other doctor.Finding) bool { return f.Check == other.Check && f.Subject == other.Subject }
	}
	all := slices.Clone(left)
	for _, f := range found {
		if !slices.ContainsFunc(left, same(f)) {
			f.Fixed = true
			all = append(all, f)
		}
	}
	return all
}

func printFindings(p *ui.Printer, found []doctor.Finding) error {
	if p.JSON {
		return p.Document(found)
	}
	if len(found) == 0 {
		p.Printf("%s\n", p.Paint(ui.Good, fmt.Sprintf("nothing found: %d checks", len(doctor.Names()))))
		return nil
	}
	for _, f := range found {
		tones := map[doctor.Severity]ui.Tone{doctor.Fault: ui.Bad, doctor.Warning: ui.Warning}
		state, tone := string(f.Severity), tones[f.Severity]
		if f.Fixed {
			state, tone = "fixed", ui.Good
		}
		p.Printf("%s %s (%s)\n%s", p.Paint(tone, state+":"), p.Paint(ui.Strong, f.Subject), f.Check, p.Wrap("  ", f.Text))
		if f.Command != "" && !f.Fixed {
			p.Printf("  %s %s\n", p.Paint(ui.Faint, "fix:"), f.Command)
		}
	}
	return nil
}
