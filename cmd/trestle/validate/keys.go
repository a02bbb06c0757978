package validate

import (
	"fmt"
	"slices"
	"strings"

	"github.com/agnivade/levenshtein"
	"github.com/tailscale/hujson"

	"github.com/trestle-cni/trestle/pkg/cni"
)

// known are the keys that some plugins read.
type known struct {
	keys  []cni.Key
	rules Rules
	// ipam says that the keys below "ipam" are known.
	ipam bool
}

// find returns the key at a path, in any letter case. A path may occur more than once, if
// several parsers read it; its value is open to any key if one of them says so.
func (k known) find(path string) (key cni.Key, ok bool) {
	for _, one := range k.keys {
		if strings.EqualFold(one.Path, path) {
			open := key.Open || one.Open
			key, ok = one, true
			key.Open = open
		}
	}
	return key, ok
}

// hasBelow says whether there is a key below this path.
func (k known) hasBelow(path string) bool {
	return slices.ContainsFunc(k.keys, func(key cni.Key) bool { return beginsFold(key.Path, path+".") || beginsFold(key.Path, path+"[") })
}

func beginsFold(s, beginning string) bool {
	return len(s) >= len(beginning) && strings.EqualFold(s[:len(beginning)], beginning)
}

// place is where a value is: its path among the keys, "ipam.ranges[][]", and in the file,
// "plugins[0].ipam.ranges[0][0]".
type place struct{ key, file string }

func (p place) member(name string) place { return place{p.key + name, p.file + name} }

func (p place) inside() place { return place{p.key + ".", p.file + "."} }

func (p place) element(i int) place { return place{p.key + "[]", fmt.Sprintf("%s[%d]", p.file, i)} }

// object checks the members of v against the keys that begin with at.key ("" or "ipam.").
func (k known) object(f *file, v hujson.Value, at place) {
	seen := map[string]bool{}
	for _, m := range members(v) {
		name := nameOf(m)
		folded := strings.ToLower(name)
		if seen[folded] {
			f.at(m.Name.StartOffset, at.file+name, "this key occurs twice; the last one counts")
		}
		seen[folded] = true
		key, ok := k.find(at.key + name)
		if !ok {
			if !isRemark(name) && !k.hasBelow(at.key+name) {
				f.at(m.Name.StartOffset, at.file+name, "%s", k.unknown(at.key, name))
			}
			continue
		}
		if got, ok := fits(m.Value, key.Type); !ok {
			f.at(m.Value.StartOffset, at.file+name, "%s, where it takes %s", got, article(key.Type))
			continue
		}
		k.below(f, m.Value, key.Open, at.member(name))
	}
}

// isRemark says whether a key is a comment, which JSON does not have.
func isRemark(name string) bool {
	return strings.HasPrefix(name, "_") || strings.HasPrefix(name, "//") || strings.HasPrefix(name, "#")
}

// below checks an object, or a list of objects.
func (k known) below(f *file, v hujson.Value, open bool, at place) {
	switch v.Value.(type) {
	case *hujson.Object:
		// ipam is open, as each IPAM plugin reads its own
		if !open || k.ipam && strings.EqualFold(at.key, "ipam") {
			k.object(f, v, at.inside())
		}
	case *hujson.Array:
		for i, element := range elements(v) {
			k.below(f, element, open, at.element(i))
		}
	}
}

// fits says whether the value has the type, and what it is. null counts as absent.
func fits(v hujson.Value, kind string) (got string, ok bool) {
	if of, isList := strings.CutPrefix(kind, "list of "); isList {
		if _, isArray := v.Value.(*hujson.Array); !isArray {
			got, _ = fits(v, "list")
			return got, isNull(v)
		}
		for _, element := range elements(v) {
			if got, ok := fits(element, of); !ok {
				return "a list with " + got, false
			}
		}
		return "", true
	}
	switch value := v.Value.(type) {
	case *hujson.Object:
		return "an object", kind == "object" || kind == "any"
	case *hujson.Array:
		return "a list", kind == "any"
	case hujson.Literal:
		return literalFits(value, kind)
	}
	return "", true
}

func literalFits(value hujson.Literal, kind string) (got string, ok bool) {
	switch value.Kind() {
	case 'n':
		return "null", true
	case 't', 'f':
		return string(value), kind == "boolean" || kind == "any"
	case '"':
		return "text " + string(value), kind == "string" || kind == "any"
	default:
		isWhole := !strings.ContainsAny(string(value), ".eE")
		return "the number " + string(value), kind == "any" || kind == "integer" && isWhole
	}
}

func isNull(v hujson.Value) bool {
	literal, ok := v.Value.(hujson.Literal)
	return ok && literal.Kind() == 'n'
}

func article(kind string) string {
	switch kind {
	case "boolean":
		return "true or false"
	case "integer":
		return "a whole number"
	case "object":
		return "an object"
	case "string":
		return "text"
	}
	if of, ok := strings.CutPrefix(kind, "list of "); ok {
		plural := map[string]string{"string": "texts", "object": "objects", "integer": "whole numbers"}
		if words, ok := plural[of]; ok {
			return "a list of " + words
		}
		return "a list of lists"
	}
	return kind
}

// unknown describes a key that nothing reads, and suggests what was meant: a key with a
// similar spelling, in another place, or of another plugin.
func (k known) unknown(path, name string) string {
	const nobody = "nobody reads this key"
	var siblings []string
	for _, key := range k.keys {
		rest := ""
		if beginsFold(key.Path, path) {
			rest = key.Path[len(path):]
		}
		if rest, _, _ = strings.Cut(rest, "."); rest != "" {
			rest, _, _ = strings.Cut(rest, "[")
			siblings = append(siblings, rest)
		}
	}
	if like, ok := nearest(name, siblings); ok {
		return fmt.Sprintf("%s; is it %s?", nobody, like)
	}
	for _, key := range k.keys {
		if i := strings.LastIndex(key.Path, "."); i >= 0 && strings.EqualFold(key.Path[i+1:], name) && !strings.HasPrefix(key.Path, "CNI_ARGS") {
			return fmt.Sprintf("%s here; it is %s", nobody, key.Path)
		}
	}
	if slices.ContainsFunc(cni.ProtocolKeys(), func(key cni.Key) bool { return strings.EqualFold(key.Path, name) }) {
		return nobody + " here; it belongs in a plugin's {…}"
	}
	for _, plugin := range k.rules.Ours {
		reads := func(key cni.Key) bool {
			return strings.EqualFold(key.Path, path+name) || strings.EqualFold(key.Path, name)
		}
		if path == "" && slices.ContainsFunc(k.rules.Keys(plugin), reads) {
			return fmt.Sprintf("%s here; plugin %s does", nobody, plugin)
		}
	}
	return nobody
}

// nearest is the candidate with the most similar spelling, if it is similar enough.
func nearest(name string, candidates []string) (string, bool) {
	best, distance := "", max(2, len(name)/4)+1
	for _, candidate := range candidates {
		if d := levenshtein.ComputeDistance(strings.ToLower(name), strings.ToLower(candidate)); d < distance && d < len(candidate) {
			best, distance = candidate, d
		}
	}
	return best, best != ""
}
