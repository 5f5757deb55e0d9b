package store

// Examine is examine for tests.
var Examine = examine
