package nft

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/trestle-cni/trestle/pkg/rawfile"
)

// To compare a table's rules with the wanted ones takes ten times as long as to list
// them. So a file for each table holds the digest of a listing that was found as wanted,
// and below it the Keys that it was compared with:
//
//	<dir>/inet-trestle
//
// If any program changes or reloads a rule, the listing has another digest (each rule has
// a handle), and the rules are compared again. If the file is missing although the table
// exists, /run was lost, or the table was loaded after a boot.
func (c *Conn) knownFile(t Table) string {
	return filepath.Join(c.dir, strings.ReplaceAll(t.String(), " ", "-"))
}

// Known says whether the table was found as wanted under its Key and has not changed since.
func (c *Conn) Known(t Table) (bool, error) {
	digest, keys, err := c.readKnown(t)
	if err != nil || !slices.Contains(keys, t.Key) {
		return false, err
	}
	if err := c.connect(); err != nil {
		return false, err
	}
	k := c.knowledge[t.String()]
	if k.now == "" {
		if k.now, err = c.digest(t); err != nil {
			return false, err
		}
		c.learn(t, k)
	}
	return digest == k.now, nil
}

// IsKnown says whether the table's file lists this part of the table, named by the first
// word of Key, in whatever layout. If so, every owner of something in it has a record.
func (c *Conn) IsKnown(t Table) (bool, error) {
	_, keys, err := c.readKnown(t)
	part, _, _ := strings.Cut(t.Key, " ")
	return slices.ContainsFunc(keys, func(key string) bool { return strings.HasPrefix(key, part+" ") }), err
}

func (c *Conn) readKnown(t Table) (digest string, keys []string, err error) {
	if k, ok := c.knowledge[t.String()]; ok {
		return k.digest, k.keys, nil
	}
	defer func() {
		if err == nil {
			c.learn(t, knowledge{digest: digest, keys: keys})
		}
	}()
	data, err := rawfile.Read(c.knownFile(t))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, rawfile.ErrUnfit) {
		return "", nil, nil
	}
	if err != nil {
		return "", nil, fmt.Errorf("read what is known of nftables table %s: %w", t, err)
	}
	lines := strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")
	return lines[0], lines[1:], nil
}

// Layouts returns the numbers of the layouts that the files of dir list, by part of a table:
// those of the release that used the tables last.
func Layouts(dir string) (map[string]int, error) {
	layouts := map[string]int{}
	files, err := rawfile.Names(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read what is known of nftables' tables: %w", err)
	}
	for _, name := range files {
		data, err := rawfile.Read(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, rawfile.ErrUnfit) {
			continue // forgotten meanwhile, or none of ours
		}
		if err != nil {
			return nil, fmt.Errorf("read what is known of nftables' tables: %w", err)
		}
		for line := range strings.Lines(string(data)) {
			if part, number, ok := ParseKey(line); ok {
				layouts[part] = max(layouts[part], number)
			}
		}
	}
	return layouts, nil
}

// keyForm is compiled when the command line first needs it: plugins start without it.
var keyForm = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^([a-z][a-z, ]*) ([0-9]+)(?:;|$)`)
})

// ParseKey splits a table's Key into the part's name and the number of its layout, which is
// higher in later releases.
func ParseKey(key string) (part string, number int, ok bool) {
	found := keyForm().FindStringSubmatch(strings.TrimSpace(key))
	if found == nil {
		return "", 0, false
	}
	number, err := strconv.Atoi(found[2])
	return found[1], number, err == nil
}

// knowledge is what was read of a table since Refresh, by this Conn alone.
type knowledge struct {
	digest string // in the file
	keys   []string
	now    string // the digest of the kernel's rules, if they were listed
}

func (c *Conn) learn(t Table, k knowledge) {
	if c.knowledge == nil {
		c.knowledge = map[string]knowledge{}
	}
	c.knowledge[t.String()] = k
}

// Refresh forgets what was read before the caller took the lock.
func (c *Conn) Refresh() { c.knowledge = nil }

// remember notes that the tables were found or made as wanted at the generation at. If
// another program has changed nftables since, it notes nothing and settled is false: the
// tables may be what "nft flush ruleset" has left.
func (c *Conn) remember(tables []Table, at uint32) (settled bool, err error) {
	if len(tables) == 0 {
		return true, nil
	}
	digests := make([]string, len(tables))
	for i, t := range tables {
		if digests[i], err = c.digest(t); err != nil {
			return false, err
		}
	}
	if at != 0 && c.generation() != at {
		return false, nil
	}
	for i, t := range tables {
		if err := c.rememberTable(t, digests[i]); err != nil {
			return false, err
		}
	}
	return true, nil
}

func (c *Conn) rememberTable(t Table, digest string) error {
	was, keys, err := c.readKnown(t)
	if err != nil {
		return err
	}
	if was != digest {
		keys = nil
	}
	keys = slices.Clone(keys)
	if !slices.Contains(keys, t.Key) {
		keys = append(keys, t.Key)
	}
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return fmt.Errorf("remember nftables table %s: %w", t, err)
	}
	content := digest + "\n" + strings.Join(keys, "\n") + "\n"
	if err := rawfile.Write(c.knownFile(t), []byte(content), 0o600); err != nil {
		return fmt.Errorf("remember nftables table %s: %w", t, err)
	}
	c.learn(t, knowledge{digest: digest, keys: keys, now: digest})
	return nil
}

// forget removes the table's file.
func (c *Conn) forget(t Table) error {
	delete(c.knowledge, t.String())
	if err := os.Remove(c.knownFile(t)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget nftables table %s: %w", t, err)
	}
	return nil
}

// digest returns the digest of the kernel's listing of all rules of the table. There are
// few: their number grows with networks, not with containers.
func (c *Conn) digest(t Table) (string, error) {
	attributes := netlink.NewAttributeEncoder()
	attributes.String(unix.NFTA_RULE_TABLE, t.Name)
	request, err := message(unix.NFT_MSG_GETRULE, t.Family, netlink.Dump, attributes)
	if err != nil {
		return "", err
	}
	answers, err := c.peer.ask(request)
	if err != nil && !isMissing(err) {
		return "", fmt.Errorf("list rules of nftables table %s: %w", t, err)
	}
	hash := sha256.New()
	for _, m := range answers {
		hash.Write(m.Data[min(4, len(m.Data)):]) // after struct nfgenmsg, whose res_id is the generation
	}
	return hex.EncodeToString(hash.Sum(nil)[:16]), nil
}
