"""What a call may take: bounds of its request, memory, and the calls and connections of one caller."""
