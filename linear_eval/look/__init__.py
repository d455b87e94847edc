"""Looking at what an encoder makes of a set: alike images, copies, likely wrong labels, maps, contact sheets."""
