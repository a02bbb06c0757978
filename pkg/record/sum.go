package record

import (
	"bytes"
	"hash/crc32"
	"strconv"
)

// sumKey begins the last entry of a record's JSON: the CRC-32 (IEEE) of all bytes before it. One
// flipped bit may leave JSON that can be read, as another address or port. The sum is of bytes
// rather than of values, so that a release that does not know all keys can check it, too. In a
// JSON string the quotes would be escaped.
const sumKey = `,"crc32":`

// AddSum adds a checksum to the JSON of an object, which has keys. Releases without checksums
// ignore it.
func AddSum(object []byte) []byte {
	body := object[:len(object)-len("}")]
	sum := crc32.ChecksumIEEE(body)
	return append(strconv.AppendUint(append(body, sumKey...), uint64(sum), 10), '}')
}

// IsIntact says whether the JSON is as AddSum left it. It is true without a checksum, as in the
// records of earlier releases.
func IsIntact(object []byte) bool {
	object = bytes.TrimRight(object, "\n")
	at := bytes.LastIndex(object, []byte(sumKey))
	if at < 0 {
		return true
	}
	digits, complete := bytes.CutSuffix(object[at+len(sumKey):], []byte("}"))
	sum, err := strconv.ParseUint(string(digits), 10, 32)
	return complete && err == nil && sum == uint64(crc32.ChecksumIEEE(object[:at]))
}
