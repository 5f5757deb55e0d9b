package kms

// DefaultPageSize is how many members a page has if the request does not say.
const DefaultPageSize = 10

// A PageInfo describes one page of a list. Pages count from 1.
type PageInfo struct {
	PageNumber int
	PageSize   int
	TotalCount int
}

// Skip returns how many members come before the page.
func (p PageInfo) Skip() int { return (p.PageNumber - 1) * p.PageSize }

// Cut returns the page of a list that is there as a whole.
func Cut[T any](all []T, p PageInfo) []T {
	return all[min(p.Skip(), len(all)):min(p.Skip()+p.PageSize, len(all))]
}

// NewPage fills in what a request left out; defaultSize is that of PageSize.
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
