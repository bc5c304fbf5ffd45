from conceptevo.cli import main

main()
