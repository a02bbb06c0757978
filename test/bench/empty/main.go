// Command empty does nothing. What its execution takes is the floor for every
// plugin that is written in Go.
package main

func main() {}
