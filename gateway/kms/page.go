package kms

const (
	defaultPageSize = 10
	maxPageSize     = 100
)

// PageInfo is what responses say of their page. Pages count from 1.
type PageInfo struct {
	PageNumber int
	PageSize   int
	TotalCount int
}

func (p PageInfo) Skip() int { return (p.PageNumber - 1) * p.PageSize }

// Cut gives the page of a list that is there as a whole.
func Cut[T any](all []T, p PageInfo) []T {
	return all[min(p.Skip(), len(all)):min(p.Skip()+p.PageSize, len(all))]
}

// NewPage fills in what a request left out.
func NewPage(number, size *int) (PageInfo, error) {
	p := PageInfo{PageNumber: 1, PageSize: defaultPageSize}
	if number != nil {
		p.PageNumber = *number
	}
	if size != nil {
		p.PageSize = *size
	}
	if p.PageNumber < 1 {
		return p, InvalidParameter("PageNumber", "%d is not 1 or more", p.PageNumber)
	}
	if p.PageSize < 1 || p.PageSize > maxPageSize {
		return p, InvalidParameter("PageSize", "%d is not 1 to %d", p.PageSize, maxPageSize)
	}
	return p, nil
}

// ListNamedRequest asks for a page of a collection.
type ListNamedRequest struct {
	PageNumber *int
	PageSize   *int
}

// NamedPageSize is the default for collections: KMS has 10 for other lists.
const NamedPageSize = 20

// NameRequest asks for one record of a collection.
type NameRequest struct {
	Name string `kms:"required"`
}
