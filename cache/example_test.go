package cache_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"sync"
	"time"

	"github.com/trivet-go/trivet/cache"
)

// Prices that a service is asked for. The second caller gets what the first one has loaded.
func Example() {
	prices, err := cache.NewMemory(cache.MemoryConfig[string, int]{
		MaxEntries: 10_000,
		TTL:        func(string, int) time.Duration { return time.Minute },
	})
	if err != nil {
		log.Fatal(err)
	}
	ask := func(_ context.Context, article string) (int, error) {
		fmt.Println("asking for", article)
		return 12, nil // GET https://prices.internal/articles/tea
	}
	for range 2 {
		price, err := prices.Load(context.Background(), "tea", ask)
		fmt.Println(price, err)
	}
	// Output:
	// asking for tea
	// 12 <nil>
	// 12 <nil>
}

// The results of a database query. However many requests ask for the same user at once, the
// database is asked once; that a user does not exist is remembered for a shorter time.
func ExampleMemory_Load() {
	type User struct{ Name string }
	users, err := cache.NewMemory(cache.MemoryConfig[int64, *User]{
		MaxEntries: 50_000,
		TTL:        func(int64, *User) time.Duration { return 10 * time.Minute },
		Jitter:     0.1,
		Stale:      time.Minute, // return the old row at once while the new one is read
		ErrorTTL: func(_ int64, err error) time.Duration {
			if errors.Is(err, cache.ErrNotFound) {
				return 10 * time.Second
			}
			return 0 // ask again
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer users.Close(context.Background())

	queries := 0 // one load of a key runs at a time
	query := func(ctx context.Context, id int64) (*User, error) {
		queries++ // row := db.QueryRowContext(ctx, "SELECT name FROM users WHERE id = $1", id)
		if id != 7 {
			return nil, cache.ErrNotFound // for sql.ErrNoRows
		}
		return &User{"Ada"}, nil
	}

	ctx, cancel := context.WithTimeout(context.Background(), time.Second) // a request's
	defer cancel()
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			if _, err := users.Load(ctx, 7, query); err != nil {
				log.Fatal(err)
			}
		})
	}
	wg.Wait()
	user, err := users.Load(ctx, 7, query)
	fmt.Println(user.Name, err, queries)

	_, err = users.Load(ctx, 8, query)
	fmt.Println(err, errors.Is(err, cache.ErrNotFound))
	_, _ = users.Load(ctx, 8, query)
	fmt.Println(queries)
	// Output:
	// Ada <nil> 1
	// cache: load: cache: not found true
	// 2
}

// An access token that many requests need. It is fetched anew shortly before it expires; while the
// identity provider is down the old one is used, as long as that can be right. A token that has
// less than the margin left when it comes is returned, and not kept.
func ExampleMemory_Load_staleIfError() {
	type Token struct {
		Value  string
		Expiry time.Time
	}
	const margin = time.Minute
	tokens, err := cache.NewMemory(cache.MemoryConfig[string, Token]{
		MaxEntries:   10,
		TTL:          func(_ string, t Token) time.Duration { return time.Until(t.Expiry) - margin },
		StaleIfError: margin,
		ErrorTTL:     func(string, error) time.Duration { return time.Second }, // between two tries
		LoadTimeout:  5 * time.Second,
	})
	if err != nil {
		log.Fatal(err)
	}
	defer tokens.Close(context.Background())

	down := false
	fetch := func(ctx context.Context, audience string) (Token, error) {
		if down {
			return Token{}, errors.New("identity provider: 503")
		}
		return Token{"token-1", time.Now().Add(margin + time.Millisecond)}, nil
	}
	t, err := tokens.Load(context.Background(), "billing", fetch)
	fmt.Println(t.Value, err)
	for fresh := true; fresh; _, fresh = tokens.Get("billing") {
	}
	down = true
	t, err = tokens.Load(context.Background(), "billing", fetch)
	fmt.Println(t.Value, err, tokens.Stats().Fallbacks)
	_, err = tokens.Load(context.Background(), "search", fetch)
	fmt.Println(err)
	// Output:
	// token-1 <nil>
	// token-1 <nil> 1
	// cache: load: identity provider: 503
}

// What was rendered from an article goes when the article changes, whatever its keys are.
func ExampleMemory_InvalidateTag() {
	pages, err := cache.NewMemory(cache.MemoryConfig[string, string]{MaxEntries: 10_000})
	if err != nil {
		log.Fatal(err)
	}
	defer pages.Close(context.Background())
	pages.SetItem("/articles/7", cache.MemoryItem[string]{Value: "an article", Tags: []string{"article:7"}})
	pages.SetItem("/", cache.MemoryItem[string]{
		Value: "a list of articles",
		Tags:  []string{"article:7", "article:8"},
	})
	pages.SetItem("/about", cache.MemoryItem[string]{Value: "about us", TTL: time.Hour})

	pages.InvalidateTag("article:7", cache.Hard)
	for _, path := range []string{"/articles/7", "/", "/about"} {
		page, ok := pages.Get(path)
		fmt.Printf("%q %v\n", page, ok)
	}
	// Output:
	// "" false
	// "" false
	// "about us" true
}

// Reading with Get and storing with Set is not Load: between the two the value may have been
// changed and invalidated by others, and Set brings the old one back.
func ExampleMemory_Set_incorrect() {
	prices, err := cache.NewMemory(cache.MemoryConfig[string, int]{})
	if err != nil {
		log.Fatal(err)
	}
	defer prices.Close(context.Background())
	database := 10

	if _, ok := prices.Get("tea"); !ok {
		price := database // SELECT

		database = 12 // meanwhile another request changes the price
		prices.Delete("tea")

		prices.Set("tea", price)
	}
	price, _ := prices.Get("tea")
	fmt.Println("Get and Set:", price)

	prices.Delete("tea")
	_, _ = prices.Load(context.Background(), "tea", func(context.Context, string) (int, error) {
		price := database

		database = 15
		prices.Delete("tea") // the load under way no longer stores anything

		return price, nil
	})
	price, err = prices.Load(context.Background(), "tea", func(context.Context, string) (int, error) {
		return database, nil
	})
	fmt.Println("Load:", price, err)
	// Output:
	// Get and Set: 10
	// Load: 15 <nil>
}

// Many keys with one query. What is in the cache already is not asked for.
func ExampleMemory_LoadMany() {
	names, err := cache.NewMemory(cache.MemoryConfig[int, string]{})
	if err != nil {
		log.Fatal(err)
	}
	defer names.Close(context.Background())
	names.Set(1, "Ada")
	found, err := names.LoadMany(context.Background(), []int{1, 2, 3},
		func(ctx context.Context, ids []int) (map[int]string, error) {
			fmt.Println("SELECT ... WHERE id IN", ids)
			return map[int]string{2: "Grace"}, nil // there is no 3
		})
	fmt.Println(found, err)
	// Output:
	// SELECT ... WHERE id IN [2 3]
	// map[1:Ada 2:Grace] <nil>
}
