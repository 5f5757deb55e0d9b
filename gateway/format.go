package gateway

import (
	"fmt"
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/kmsgate/kmsgate/gateway/kms"
)

// answer writes an answer in the call's format.
func (c *call) answer(ec echo.Context, status int, root string, body any) error {
	text, err := c.format.Encode(root, body)
	if err != nil {
		return fmt.Errorf("encoding an answer: %w", err)
	}
	ec.Response().Header().Set("X-Acs-Request-Id", c.requestId)
	return ec.Blob(status, c.format.ContentType, text)
}

func (c *call) writeError(ec echo.Context, api *kms.Error) error {
	if api.Status == http.StatusTooManyRequests || api.Status == http.StatusServiceUnavailable {
		ec.Response().Header().Set("Retry-After", "1")
	}
	if c.door == nativeDoor {
		return c.writeNativeError(ec, api)
	}
	if c.claim == nil && c.format == kms.FormatJSON { // the request was not read that far
		c.format = kms.FormatOf(ec.QueryParam("Format"))
	}
	return c.answer(ec, api.Status, "Error", kms.ErrorBody{HttpStatus: api.Status, Code: api.Code, Message: api.Message, RequestId: c.requestId, HostId: kms.Clip(ec.Request().Host)})
}
