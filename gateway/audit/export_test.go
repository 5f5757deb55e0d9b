package audit

// A TestFile is the interface that the writer needs from a file.
type TestFile = file

// SetOpen lets a test replace the log's files by faulty ones.
func (c *Config) SetOpen(open func(path string, flag int) (TestFile, error)) { c.open = open }

// KindOfFields exports kindOfFields to tests.
func (e *Event) KindOfFields() Kind { return e.kindOfFields() }

// SetRemove lets a test make the removal of files fail.
func (c *Config) SetRemove(remove func(path string) error) { c.remove = remove }

// AppendEntry exports appendEntry to tests.
func AppendEntry(b []byte, e *Entry) ([]byte, error) { return appendEntry(b, e) }

// DecodeEntryLine exports decodeEntryLine to tests.
func DecodeEntryLine(text []byte) (line Line, ok bool) { return decodeEntryLine(text) }
