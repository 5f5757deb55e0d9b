package audit

// A TestFile is what the writer needs of a file.
type TestFile = file

// SetOpen lets a test put a faulty file in the place of the real one.
func (c *Config) SetOpen(open func(path string, flag int) (TestFile, error)) { c.open = open }

// KindOfFields is kindOfFields, for tests.
func (e *Event) KindOfFields() Kind { return e.kindOfFields() }
