package nft

import (
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// FuzzAnswer: any answer is decoded as elements, and as tables, or is an error.
func FuzzAnswer(f *testing.F) {
	whole, err := elementMessage(unix.NFT_MSG_NEWSETELEM, 0, []Element{port(mine, 80, 2)}, nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole.Data)
	f.Add([]byte{})
	f.Fuzz(func(_ *testing.T, data []byte) {
		_, _ = decodeElements([]netlink.Message{{Data: data}}) // it must not panic
		_, _ = decodeTables([]netlink.Message{{Data: data}})   // likewise
		if messages, err := splitMessages(data); err == nil {
			for _, m := range messages {
				_ = errnoOf(m) // likewise
			}
		}
	})
}
