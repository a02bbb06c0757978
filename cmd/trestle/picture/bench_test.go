package picture

import "testing"

// BenchmarkThousand measures each drawing of a host with a thousand containers.
func BenchmarkThousand(b *testing.B) {
	snapshot := crowdedHost()
	m, err := NewMasker([16]byte{1})
	if err != nil {
		b.Fatal(err)
	}
	for name, draw := range map[string]func() error{
		"tree":  func() error { NewTopology(snapshot).Tree(TreeOptions{Width: 80, All: true}); return nil },
		"svg":   func() error { NewTopology(snapshot).SVG(); return nil },
		"dot":   func() error { NewTopology(snapshot).DOT(); return nil },
		"page":  func() error { _, err := Page(NewTopology(snapshot), snapshot.Time); return err },
		"pools": func() error { PoolsSVG(NewPoolMaps(snapshot)); return nil },
		"report": func() error {
			r, err := NewReport(snapshot).Mask(m)
			if err != nil {
				return err
			}
			_, err = r.Page()
			return err
		},
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if err := draw(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
