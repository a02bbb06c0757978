package picture

import (
	"fmt"
	"slices"
)

// Measures of a map of pools.
const (
	poolPerRow = 64
	poolCell   = 12.0
	poolPitch  = 14.0
	poolLabels = 150.0
)

// PoolsSVG draws the maps below each other, for light and dark backgrounds.
func PoolsSVG(maps []PoolMap) string {
	s := &sketch{y: margin}
	width := poolLabels + poolPerRow*poolPitch + 2*padding
	if len(maps) == 0 {
		s.text("faint", point{margin, s.y + namePx}, "no pool: no network uses host-local")
		s.y += 2 * namePx
	}
	for _, m := range maps {
		s.pool(m, margin, width)
	}
	return s.wrapped(rect{0, 0, width + 2*margin, s.y - gap + margin}, fmt.Sprintf("pools of addresses: %d", len(maps)))
}

func (s *sketch) pool(m PoolMap, left, width float64) {
	rows := (len(m.Cells) + poolPerRow - 1) / poolPerRow
	r := rect{left, s.y, width, 2*padding + 50 + float64(rows)*poolPitch + 26}
	s.open("g", "class", "pool")
	s.box("panel", r, 10)
	x, y := r.x+padding, r.y+padding
	room := r.w - 2*padding
	name := fitSans(m.Network, room/3, headPx)
	s.text("head", point{x, y + 12}, name)
	s.text("mono", point{x + sansWidth(name, headPx) + 12, y + 12}, m.Subnet.String())
	s.textEnd("faint", point{r.x + r.w - padding, y + 12}, m.title())
	s.text("faint", point{x, y + 32}, fitSans(m.scale(), room, textPx))
	y += 50
	for row := range slices.Chunk(m.Cells, poolPerRow) {
		s.text("mono faint small", point{x, y + 10}, fitMono(row[0].Block.Addr().String(), poolLabels-12, smallPx))
		for i, c := range row {
			s.open("g")
			s.title(c.tip())
			s.look(c.looksLike(), rect{x + poolLabels + float64(i)*poolPitch, y, poolCell, poolCell})
			s.close("g")
		}
		y += poolPitch
	}
	s.poolLegend(m.looks(), point{x, y + 12})
	s.close("g")
	s.y += r.h + gap
}

func (s *sketch) poolLegend(looks []look, at point) {
	for i, l := range looks {
		s.look(l, rect{at.x, at.y, poolCell, poolCell})
		at.x += poolPitch
		word := glyphs()[l].word
		if i+1 < len(looks) && glyphs()[looks[i+1]].word == word {
			continue
		}
		s.text("faint", point{at.x + 4, at.y + 10}, word)
		at.x += 4 + sansWidth(word, textPx) + 20
	}
}

// look draws a cell; one that is leased in part is filled from below.
func (s *sketch) look(l look, r rect) {
	switch l {
	case lookDead:
		s.box("dead", r, 2)
	case lookReserved:
		s.box("reserved", r, 2)
	case lookLeased:
		s.box("leased", r, 2)
	default:
		s.box("free", r, 2)
		if l != lookFree {
			h := r.h * float64(l-lookFree) / 4
			s.box("leased", rect{r.x, r.y + r.h - h, r.w, h}, 2)
		}
	}
}
