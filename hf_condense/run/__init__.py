"""One run as data flow: settled once, then stage after stage, each of which hands its output on."""
