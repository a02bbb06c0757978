package picture

// Report is a page to send along with a report of a fault.
type Report struct{}
