package nft

// Comment returns the comment in the user data of a rule or an element, "" if there is
// none. User data can be any bytes, which the kernel stores unread: that they are a list
// of type, length and value is libnftnl's convention.
func Comment(userData []byte) string {
	const comment = 0 // NFTNL_UDATA_RULE_COMMENT, NFTNL_UDATA_SET_ELEM_COMMENT
	for len(userData) >= 2 {
		kind, rest := userData[0], userData[2:]
		length := int(userData[1])
		if length > len(rest) {
			return ""
		}
		if kind == comment {
			text := string(rest[:length])
			if length > 0 && text[length-1] == 0 {
				text = text[:length-1]
			}
			return text
		}
		userData = rest[length:]
	}
	return ""
}
