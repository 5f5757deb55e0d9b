package kms

// MaxStatement is the largest text that SignStatement signs, in bytes.
const MaxStatement = 64 << 10

// SignStatementRequest holds the parameters of SignStatement.
type SignStatementRequest struct {
	Statement string `kms:"required,bytes=65536"`
}

// SignStatementResponse is the answer to SignStatement.
type SignStatementResponse struct {
	Result
	Signature Base64 // by the audit key; see audit.SignStatement
}
