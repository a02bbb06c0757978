package picture

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestSVG: the pictures are the golden ones, which a person has looked at. The next test checks
// that of a thousand containers.
func TestSVG(t *testing.T) {
	for _, name := range []string{"0", "3", "40"} {
		golden(t, "topology-"+name+".svg", NewTopology(samples()[name]).SVG())
	}
}

// TestSVGChains: the chains are in the picture and on the page, by hook and within the picture's
// bounds, whatever their names.
func TestSVGChains(t *testing.T) {
	topology := NewTopology(samples()["3"])
	without := topology.SVG()
	for i := range 12 {
		topology.Chains = append(topology.Chains, Chain{Hook: "forward", Table: "ip filter", Name: fmt.Sprintf("FORWARD<%d>", i), Program: "iptables", Drops: i == 0})
	}
	topology.Chains = append(topology.Chains, Chain{Hook: "postrouting of frames", Table: "bridge trestle", Name: strings.Repeat("long", 60), Program: "nft"})
	if strings.Contains(without, "chains") {
		t.Errorf("got chains in a picture of none")
	}
	var height, bottom float64
	ids := map[string]int{}
	for _, e := range elements(t, topology.SVG()) {
		at := attributes(e)
		if e.Name.Local == "svg" {
			height = number(t, at["height"])
		}
		if e.Name.Local == "text" {
			bottom = max(bottom, number(t, at["y"]))
		}
		ids[at["data-id"]]++
	}
	dot := topology.DOT()
	for _, want := range []string{`"link/chains" [label="chains\nforward: FORWARD<0> of ip filter (iptables, drops what no rule accepts)\nforward: FORWARD<1>`, `\npostrouting of frames: longlong`, `"host" -- "link/chains";`} {
		if !strings.Contains(dot, want) {
			t.Errorf("got no %q in the graph", want)
		}
	}
	if ids[linkID(chainsName)] != 1 || bottom > height {
		t.Errorf("got the chains %d times, and text down to %v of %v", ids[linkID(chainsName)], bottom, height)
	}
	page, err := Page(topology, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"FORWARD&lt;0&gt; of ip filter (iptables, drops what no rule accepts)", "FORWARD&lt;11&gt;", "postrouting of frames"} {
		if !strings.Contains(topology.SVG(), want) || !strings.Contains(page, want) {
			t.Errorf("got no %q in the picture or on the page", want)
		}
	}
	if !strings.Contains(page, strings.Repeat("long", 60)) {
		t.Errorf("got the long name cut on the page, want it whole in the details")
	}
}

// TestSVGIsWhole: on a host of any size each container and bridge is in the picture once, within
// its bounds, and no name breaks the SVG.
func TestSVGIsWhole(t *testing.T) {
	hosts := samples()
	hosts["odd"] = oddHost()
	for name, snapshot := range hosts {
		topology := NewTopology(snapshot)
		ids := map[string]int{}
		var width, height float64
		for _, e := range elements(t, topology.SVG()) {
			at := attributes(e)
			if e.Name.Local == "svg" {
				width, height = number(t, at["width"]), number(t, at["height"])
			}
			if id := at["data-id"]; id != "" {
				ids[id]++
			}
			if at["x"] != "" && (number(t, at["x"]) < 0 || number(t, at["x"]) > width || number(t, at["y"]) > height) {
				t.Errorf("%s: %v is outside of %v x %v", name, at, width, height)
			}
			if right := number(t, at["x"]) + number(t, at["width"]); e.Name.Local == "rect" && right > width {
				t.Errorf("%s: %v reaches to %v, beyond %v", name, at, right, width)
			}
		}
		for _, s := range topology.Segments {
			if ids[linkID(s.Name)] != 1 {
				t.Errorf("%s: bridge %s is drawn %d times", name, s.Name, ids[linkID(s.Name)])
			}
			for _, m := range s.Members {
				if ids[m.id()] != 1 {
					t.Errorf("%s: %s is drawn %d times", name, m.id(), ids[m.id()])
				}
			}
		}
		if width > 1200 {
			t.Errorf("%s: the picture is %v wide, more than a screen", name, width)
		}
	}
}

// TestPage: a page is valid XML, has details of everything that is drawn, and can load nothing.
func TestPage(t *testing.T) {
	for name, snapshot := range samples() {
		topology := NewTopology(snapshot)
		text, err := Page(topology, snapshot.Time)
		if err != nil {
			t.Fatal(err)
		}
		assertSelfContained(t, name, text)
		_, nodes, _ := strings.Cut(text, `id="nodes">`)
		nodes, _, _ = strings.Cut(nodes, "</script>")
		var told []node
		if err := json.Unmarshal([]byte(nodes), &told); err != nil {
			t.Fatal(err)
		}
		times := map[string]int{}
		for _, n := range told {
			times[n.ID]++
		}
		for _, s := range topology.Segments {
			for _, m := range s.Members {
				if times[m.id()] != 1 {
					t.Errorf("%s: the page tells %d times of %s", name, times[m.id()], m.id())
				}
			}
		}
	}
}

// assertSelfContained checks that the text is XML, that no element refers to another file, and that
// the page's policy forbids to load anything.
func assertSelfContained(t *testing.T, name, text string) {
	t.Helper()
	allowed := false
	for _, e := range elements(t, text) {
		at := attributes(e)
		for _, attribute := range []string{"src", "href", "srcset", "data", "action", "poster", "background"} {
			if value, ok := at[attribute]; ok {
				t.Errorf("%s: <%s %s=%q> loads something", name, e.Name.Local, attribute, value)
			}
		}
		if e.Name.Local == "link" || e.Name.Local == "iframe" || e.Name.Local == "object" || e.Name.Local == "image" {
			t.Errorf("%s: <%s> loads something", name, e.Name.Local)
		}
		allowed = allowed || at["http-equiv"] == "Content-Security-Policy" && strings.HasPrefix(at["content"], "default-src 'none';")
	}
	if !allowed {
		t.Errorf("%s: no policy that forbids to load anything", name)
	}
	if found := regexp.MustCompile(`@import|url\(|fetch\(|XMLHttpRequest|WebSocket|import\(|navigator\.`).FindString(text); found != "" {
		t.Errorf("%s: %q in the page", name, found)
	}
}

// elements are the document's elements. The document must be XML.
func elements(t *testing.T, text string) []xml.StartElement {
	t.Helper()
	decoder := xml.NewDecoder(strings.NewReader(text))
	decoder.Entity = xml.HTMLEntity
	var all []xml.StartElement
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatalf("no XML: %v", err)
		}
		if e, ok := token.(xml.StartElement); ok {
			all = append(all, e.Copy())
		}
	}
}

func attributes(e xml.StartElement) map[string]string {
	all := map[string]string{}
	for _, a := range e.Attr {
		all[a.Name.Local] = a.Value
	}
	return all
}

// number is an attribute's value, or 0 if it is missing.
func number(t *testing.T, s string) float64 {
	t.Helper()
	if s == "" {
		return 0
	}
	n, err := strconv.ParseFloat(s, 64)
	if err != nil {
		t.Fatalf("%q is no number", s)
	}
	return n
}

func TestDOT(t *testing.T) {
	odd := smallHost()
	odd.Attachments[0].Name = `say "hi" \N`
	golden(t, "topology-3.dot", NewTopology(odd).DOT())
}

// TestFit: a text that is shortened keeps its beginning and its end.
func TestFit(t *testing.T) {
	for _, test := range []struct {
		text  string
		width float64
		want  string
	}{
		{"short", 100, "short"},
		{"fd6c:4ae9:71d3:22:1:2:3:4", 13 * 10 * monoEm, "fd6c:4…:2:3:4"},
		{"abc", 1, "a…c"},
	} {
		if got := fitMono(test.text, test.width, 10); got != test.want {
			t.Errorf("%q in %v: got %q, want %q", test.text, test.width, got, test.want)
		}
	}
}
