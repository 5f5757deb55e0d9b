package kms

// DefaultPageSize is the page size of a list if the request does not set PageSize.
const DefaultPageSize = 10

// A PageInfo describes one page of a list. PageNumber starts at 1.
type PageInfo struct {
	PageNumber int
	PageSize   int
	TotalCount int
}

// Skip returns the number of members before the page.
func (p PageInfo) Skip() int { return (p.PageNumber - 1) * p.PageSize }

// Cut returns the page p of the complete list all. A page past the end is empty.
func Cut[T any](all []T, p PageInfo) []T {
	return all[min(p.Skip(), len(all)):min(p.Skip()+p.PageSize, len(all))]
}

// NewPage returns the page that a request asks for. A nil number means page 1, a nil size
// defaultSize.
func NewPage(number, size *int, defaultSize int) PageInfo {
	p := PageInfo{PageNumber: 1, PageSize: defaultSize}
	if number != nil {
		p.PageNumber = *number
	}
	if size != nil {
		p.PageSize = *size
	}
	return p
}
