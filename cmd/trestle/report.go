package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/cmd/trestle/inventory"
	"github.com/trestle-cni/trestle/cmd/trestle/picture"
	"github.com/trestle-cni/trestle/cmd/trestle/programs"
	"github.com/trestle-cni/trestle/cmd/trestle/ui"
	"github.com/trestle-cni/trestle/pkg/rawfile"
)

type reportOptions struct {
	*app
	file string
	mask bool
}

func newReportCommand(a *app) *cobra.Command {
	o := reportOptions{app: a}
	command := &cobra.Command{
		Use:   "report FILE.html",
		Short: "Write everything that a bug report needs into one page",
		Long: `Write versions, findings, the topology, pools, ports, routes and network lists into one
page for a browser, to send along with a bug report. FILE may be "-", standard output;
with --json that gets the same as JSON.

--mask replaces addresses and MACs, each always by the same substitute, also in names
and texts; addresses of one subnet stay in one subnet. Names of containers, pods,
networks and interfaces stay as they are: look through it before you send it.`,
		Example: `  trestle report fault.html
  trestle report fault.html --mask`,
		Args: cobra.ExactArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			o.file = args[0]
			return o.run(command.Context(), a.printer(command))
		},
	}
	command.Flags().BoolVar(&o.mask, "mask", false, "replace addresses and MACs by substitutes")
	return command
}

func (o reportOptions) run(ctx context.Context, p *ui.Printer) error {
	drawings := drawings{{"FILE", o.file}}
	asJSON := p.JSON && o.file == toStdout
	if asJSON {
		drawings = nil
	}
	if err := drawings.check(p); err != nil {
		return err
	}
	snapshot, err := o.take(p)
	if err != nil {
		return err
	}
	report, err := o.report(ctx, snapshot)
	if err != nil {
		return err
	}
	if asJSON {
		return p.Document(report)
	}
	return drawings.write(p, func(string) (string, error) { return report.Page() })
}

func (o reportOptions) report(ctx context.Context, snapshot *inventory.Snapshot) (picture.Report, error) {
	report := picture.NewReport(snapshot)
	host, found := o.look(ctx, snapshot)
	host.Programs.IdentifyAll(ctx)
	report.Facts = slices.Concat(o.facts(), programFacts(host.Programs))
	report.Findings = []picture.Finding{}
	for _, f := range found {
		report.Findings = append(report.Findings, picture.Finding{
			Severity: string(f.Severity),
			Check:    f.Check,
			Subject:  f.Subject,
			Text:     f.Text,
			Command:  f.Command,
		})
	}
	report.Problems = slices.Concat(report.Problems, host.Problems)
	for _, n := range snapshot.Networks {
		if n.File == "" {
			continue
		}
		content, err := rawfile.Read(n.File)
		if err != nil {
			report.Problems = append(report.Problems, err.Error())
		}
		report.Lists = append(report.Lists, picture.List{File: n.File, Content: string(content)})
	}
	if !o.mask {
		return report, nil
	}
	var key [16]byte
	if _, err := rand.Read(key[:]); err != nil {
		return report, err
	}
	masker, err := picture.NewMasker(key)
	if err != nil {
		return report, err
	}
	return report.Mask(masker)
}

// facts are versions of what the host runs, and the directories in use.
func (o reportOptions) facts() [][2]string {
	facts := [][2]string{{"Trestle", release}, {"Built with", runtime.Version() + ", " + runtime.GOARCH}}
	var kernel unix.Utsname
	if unix.Uname(&kernel) == nil { // it only fails for a bad pointer
		facts = append(facts, [2]string{"Kernel", unix.ByteSliceToString(kernel.Release[:]) + " " + unix.ByteSliceToString(kernel.Version[:])})
	}
	if name := systemName("/etc/os-release"); name != "" {
		facts = append(facts, [2]string{"System", name})
	}
	return append(facts,
		[2]string{"Network lists from", strings.Join(o.lists, "\n")},
		[2]string{"Plugins from", strings.Join(o.plugins, "\n")})
}

// programFacts are the plugins by suite, version and directory.
func programFacts(all programs.All) [][2]string {
	var facts [][2]string
	for _, program := range all {
		from := program.Label() + " in " + filepath.Dir(program.Path)
		i := slices.IndexFunc(facts, func(fact [2]string) bool { return strings.HasPrefix(fact[1], from+":") })
		if i < 0 {
			facts = append(facts, [2]string{"Plugins", from + ": " + program.Name})
			continue
		}
		facts[i][1] += ", " + program.Name
	}
	return facts
}

// systemName is PRETTY_NAME of os-release(5), or "".
func systemName(file string) string {
	data, err := rawfile.Read(file)
	if err != nil {
		return ""
	}
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		if name, ok := strings.CutPrefix(lines.Text(), "PRETTY_NAME="); ok {
			return strings.Trim(name, `"'`)
		}
	}
	return ""
}
