package record

// Stamp is a stub.
type Stamp struct{ Boot string }
