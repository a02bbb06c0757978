package host

import (
	"slices"
	"strings"
	"testing"
)

// TestDropIdle: what serves nobody is no state; what serves somebody is all of it.
func TestDropIdle(t *testing.T) {
	const before, idle, busyHead, busyTail = "table ip filter {\n\tchain FORWARD {\n\t}\n}\n",
		"\tset idle {\n\t\ttype ifname\n\t}\n\tchain asks_idle {\n\t\tiifname @idle drop comment \"ours\"\n\t}\n",
		"table inet trestle {\n", "\tset busy {\n\t\ttype ifname\n\t\telement \"br0\" comment \"n/\"\n\t}\n\tchain asks {\n\t\tiifname @busy drop\n\t}\n\tchain owned {\n\t\tmasquerade comment \"n/\"\n\t}\n\tchain static {\n\t\taccept\n\t}\n"
	filter := func(rule, admin, forward string) string {
		return "table ip6 filter {\n\tchain CNI-FORWARD {\n\t\t counter jump CNI-ADMIN\n" + rule + "\t}\n\tchain CNI-ADMIN {\n" + admin +
			"\t}\n\tchain FORWARD {\n\t\ttype filter hook forward priority filter; policy " + forward + ";\n\t\t counter jump CNI-FORWARD\n\t}\n}\n"
	}
	const through, admins = "\t\tip6 saddr fd00::5 counter accept\n", "\t\tcounter drop\n"
	const dropping = "table ip6 filter {\n\tchain FORWARD {\n\t\ttype filter hook forward priority filter; policy drop;\n\t}\n}\n"
	for _, test := range []struct{ name, have, want string }{
		{"chains that let nobody through", filter("", "", "accept"), ""},
		{"such beside a policy", filter("", "", "drop"), dropping},
		{"one that lets somebody through", filter(through, "", "accept"), filter(through, "", "accept")},
		{"an administrator's rule", filter("", admins, "accept"), filter("", admins, "accept")},
		{"idle table", before + busyHead + idle + "}\n", before},
		{"idle part", before + busyHead + idle + busyTail + "}\n" + before, before + busyHead + busyTail + "}\n" + before},
		{"another's table", "table inet mine {\n" + idle + "}\n", "table inet mine {\n" + idle + "}\n"},
		{"nothing", "", ""},
	} {
		lines := func(text string) []string { return strings.FieldsFunc(text, func(c rune) bool { return c == '\n' }) }
		if got := dropIdle(lines(test.have)); !slices.Equal(got, lines(test.want)) {
			t.Errorf("%s: got\n%s\nwant\n%s", test.name, strings.Join(got, "\n"), test.want)
		}
	}
}
