from smalltale.cli import main

main()
