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

// To compare a table's rules with those that are wanted takes ten times as long as
// to list them. So a file for each table holds the digest of a listing that was
// found right, and below it the Keys of what it was right for:
//
//	<dir>/inet-trestle
//
// Any change of a rule, by any program, and any rule loaded again changes the listing;
// the file says nothing then, and the rules are compared again. Where the file is
// missing although the table is there, the records were lost or are another boot's.
func (c *Conn) knownFile(t Table) string {
	return filepath.Join(c.dir, strings.ReplaceAll(t.String(), " ", "-"))
}

// Known says whether the table is known to be what is wanted.
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

// IsKnown says whether the file about the table tells of this part of it, as the first
// word of its Key says: while it does, whoever has something there has a record.
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

// Layouts are the numbers in the Keys that the directory's files tell of, by the part of a
// table that each is about: of what was last found right there, by whichever release.
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

// keyForm is compiled when it is first needed, by the command line: plugins start without.
var keyForm = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^([a-z][a-z, ]*) ([0-9]+)(?:;|$)`)
})

// ParseKey takes a table's Key apart: the part that it is about, and the number of its
// layout, which is higher in later releases.
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
	now    string // of the kernel's rules, if they were listed
}

func (c *Conn) learn(t Table, k knowledge) {
	if c.knowledge == nil {
		c.knowledge = map[string]knowledge{}
	}
	c.knowledge[t.String()] = k
}

// Refresh forgets what was read before the caller took the lock.
func (c *Conn) Refresh() { c.knowledge = nil }

// remember says of tables that they are what is wanted, as they were found or made at the
// generation at. Where others have changed anything since, it remembers nothing: the tables
// may be what is left after "nft flush ruleset".
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

// forget takes back what is known of a table.
func (c *Conn) forget(t Table) error {
	delete(c.knowledge, t.String())
	if err := os.Remove(c.knownFile(t)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget nftables table %s: %w", t, err)
	}
	return nil
}

// digest is that of the kernel's listing of all rules of the table, whose number is
// that of networks and not of containers.
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
		hash.Write(m.Data[min(4, len(m.Data)):]) // behind struct nfgenmsg, which counts all changes of the namespace
	}
	return hex.EncodeToString(hash.Sum(nil)[:16]), nil
}
