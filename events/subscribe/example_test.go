package subscribe_test

import (
	"context"
	"database/sql"
	"fmt"
	"log"
	"os"
	"os/signal"

	"github.com/nats-io/nats.go"

	"github.com/revocast/revocast/events/subscribe"
)

// A service keeps the sessions that are revoked in its database, and with each the
// place up to which it has them all.
func Example() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	nc, err := nats.Connect("nats://n1:4222,nats://n2:4222", nats.UserCredentials("shop.creds"), nats.MaxReconnects(-1))
	if err != nil {
		log.Fatal(err)
	}
	defer nc.Close()
	var db *sql.DB // of the service

	var place string
	if err := db.QueryRowContext(ctx, "select place from revocations_place").Scan(&place); err != nil {
		log.Fatal(err)
	}
	from, err := subscribe.ParseCursor(place)
	if err != nil {
		log.Fatal(err)
	}
	s := &subscribe.Subscriber{
		Conn: nc, Region: "eu", App: "shop", Name: "billing", From: from,
		OnError: func(err error) { log.Println("revocations:", err) },
	}
	err = s.Run(ctx, func(ctx context.Context, r subscribe.Revocation) error {
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback() }() // nothing, once it is committed
		switch {
		case !r.SID.IsZero():
			_, err = tx.ExecContext(ctx, "insert into revoked values ($1) on conflict do nothing", r.SID.String())
		default: // of a user, or with an empty hash of the whole app; see Stream and Except
			_, err = tx.ExecContext(ctx, "insert into logged_out values ($1, $2, $3)", r.UserHash, r.Stream, r.At)
		}
		if err != nil {
			return fmt.Errorf("keep revocation %s: %w", r.Position, err)
		}
		if _, err := tx.ExecContext(ctx, "update revocations_place set place = $1", r.Cursor.String()); err != nil {
			return fmt.Errorf("keep place: %w", err)
		}
		return tx.Commit()
	})
	if err != nil {
		log.Println(err)
	}
}
