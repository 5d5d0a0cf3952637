"""bookd: an online bookstore's back end as a suite of Twisted daemons."""
