"""Methods that find where grey values change, and close the changes into regions."""
