"""What tests are made with; itself typed and tested."""
